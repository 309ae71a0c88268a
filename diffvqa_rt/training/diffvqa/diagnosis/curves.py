"""Training curves of a run, from the event files that it wrote for TensorBoard."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from diffvqa_rt.errors import DiagnosisError
from diffvqa_rt.evaluation.figures import COLORS, new_figure, save_figure

VALIDATION = "validation/"
"""A scalar `validation/NAME` is shown beside NAME."""

_FIRST = ("loss", "learning_rate")
_PANELS_ABREAST = 2
# A curve of fewer points is shown as it is; of a longer one, the mean of a window is drawn over its points.
_SMOOTHED_FROM = 60
_WINDOW_SHARE = 0.05
# A scalar that falls by more than this over a run is shown on a logarithmic scale.
_LOGARITHMIC_FROM = 20.0

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Steps, ascending, and a scalar's values at them."""


def read_curves(run: Path) -> dict[str, Curve]:
    """Every scalar in a run's `tensorboard/`, by its tag.

    Steps that a resumed run did again count once, as in TensorBoard; values that are no finite number are left out.

    Raises:
        DiagnosisError: there are no event files, or no scalar is in them.
    """
    folder = run / "tensorboard"
    if not any(folder.glob("*tfevents*")):
        raise DiagnosisError(f"{folder} has no event files; expected the folder of a training run")
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    with _without_warnings(logging.getLogger("tensorboard")):
        events.Reload()
    curves = {}
    for tag in events.Tags()[SCALARS]:
        values = {event.step: event.value for event in events.Scalars(tag) if math.isfinite(event.value)}
        if values:
            steps = sorted(values)
            curves[tag] = np.array(steps), np.array([values[step] for step in steps])
    if not curves:
        raise DiagnosisError(f"the event files in {folder} hold no scalar")
    return curves


@contextmanager
def _without_warnings(noisy: logging.Logger) -> Iterator[None]:
    """TensorBoard warns of each resumption, and runs are resumed on purpose."""
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)


def draw_curves(curves: Mapping[str, Curve], title: str, path: Path) -> None:
    """Writes a PNG with a panel for each scalar, the loss and the learning rate first."""
    names = sorted(
        {tag.removeprefix(VALIDATION) for tag in curves},
        key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name),
    )
    across = min(len(names), _PANELS_ABREAST)
    down = -(-len(names) // across)
    figure = new_figure(6 * across, 3.2 * down + 0.4)
    figure.suptitle(title, fontsize=11, parse_math=False)
    panels = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for axes, name in zip(panels, names, strict=False):
        _draw_panel(axes, name, curves.get(name), curves.get(VALIDATION + name))
    for axes in panels[len(names) :]:
        axes.remove()
    save_figure(figure, path)


def _draw_panel(axes: Axes, name: str, training: Curve | None, validation: Curve | None) -> None:
    if training:
        steps, values = training
        if len(values) < _SMOOTHED_FROM or name == "learning_rate":
            axes.plot(steps, values, color=COLORS[0], linewidth=1.5, label="training")
        else:
            width = max(3, round(_WINDOW_SHARE * len(values)))
            axes.plot(steps, values, color=COLORS[0], linewidth=0.6, alpha=0.35)
            axes.plot(
                *_smoothed(steps, values, width),
                color=COLORS[0],
                linewidth=1.8,
                label=f"training, mean of {width} points",
            )
    if validation:
        axes.plot(*validation, color=COLORS[5], linewidth=1.5, marker="o", markersize=3, label="validation")
    shown = np.concatenate([curve[1] for curve in (training, validation) if curve])
    if shown.min() > 0 and shown.max() > _LOGARITHMIC_FROM * shown.min() and name != "learning_rate":
        axes.set_yscale("log")
    axes.set_title(name, fontsize=10, parse_math=False)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8, labelbottom=True)
    axes.grid(alpha=0.3)
    if name != "learning_rate":
        axes.legend(fontsize=8)


def _smoothed(steps: NDArray[np.int64], values: NDArray[np.float64], width: int) -> tuple[NDArray, NDArray]:
    """The mean over each window of `width` points, at the window's middle."""
    kernel = np.full(width, 1 / width)
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")
