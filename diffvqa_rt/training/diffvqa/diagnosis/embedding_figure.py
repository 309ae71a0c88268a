"""t-SNE maps of both views' features, laid out like the paper's figure 7."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from diffvqa_rt.evaluation.figures import COLORS, new_figure, save_figure
from diffvqa_rt.training.diffvqa.diagnosis.embedding import Separation, Vectors

# Beside eight colours: each class has a pair of its own, and neighbours in the legend differ in both.
_MARKERS = ("o", "^", "s")


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingMap:
    """One view's features of one choice of clips: positions [n, 2], each with a label of the kind `by`."""

    view: str
    by: str
    positions: Vectors
    labels: tuple[str, ...]
    separation: Separation

    @property
    def title(self) -> str:
        return f"F_DFF-{self.view[0].upper()} ({self.view} view) by {self.by}"


def draw_maps(rows: Sequence[Sequence[EmbeddingMap]], path: Path) -> None:
    """Writes a PNG: a row for each view, a column for each kind of label, whose legend is below its last row."""
    figure = new_figure(6 * len(rows[0]), 5 * len(rows) + 1.4)
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for maps, line in zip(rows, grid, strict=True):
        for one, axes in zip(maps, line, strict=True):
            _draw_map(axes, one)
            if maps is rows[-1]:
                axes.legend(
                    loc="upper center",
                    bbox_to_anchor=(0.5, -0.02),
                    ncols=3,
                    fontsize=8,
                    frameon=False,
                    handletextpad=0.2,
                )
    save_figure(figure, path)


def _draw_map(axes: Axes, one: EmbeddingMap) -> None:
    labels = np.array(one.labels)
    size = float(np.clip(5000 / len(labels), 10, 40))
    for place, label in enumerate(sorted(set(one.labels))):
        is_here = labels == label
        axes.scatter(
            one.positions[is_here, 0],
            one.positions[is_here, 1],
            s=size,
            color=COLORS[place % len(COLORS)],
            marker=_MARKERS[place % len(_MARKERS)],
            linewidths=0.3,
            edgecolors="white",
            label=label.replace("_", " "),
        )
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"{one.title}\n{one.separation}", fontsize=10, parse_math=False)
