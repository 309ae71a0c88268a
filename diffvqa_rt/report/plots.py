"""Plots as SVG elements of an HTML page: matplotlib draws, the page's style sheet colours, and text stays text."""

import io
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffvqa_rt.results import VideoScore

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
# Colours that the page replaces by its own, which differ by light, dark and print.
INK, MUTED, LINE, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", FIRST: "first", SECOND: "second"}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "diffvqa",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.parse_math": False,
}
MOST_BINS = 40


class Plots:
    """The plots of one page. `style` is the style sheet of all that were drawn, which needs no inline style."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}
        self._count = 0
        ElementTree.register_namespace("", _SVG)
        ElementTree.register_namespace("xlink", _XLINK)

    @property
    def style(self) -> str:
        return "".join(f".{name}{{{declarations}}}\n" for declarations, name in self._classes.items())

    def timeline(
        self, score: VideoScore, other: VideoScore | None = None, labels: tuple[str, str] = ("frames", "")
    ) -> Markup | None:
        """Frame scores and weights over time; None where there is no curve. `other`'s scores are drawn, too."""
        if len(score.frame_scores) < 2:
            return None
        with mpl.rc_context(_SETTINGS):
            figure, (above, *below) = _figure(2.9, heights=(2.2, 1) if score.frame_weights else (1,))
            times = np.array(score.timestamps_seconds)
            above.plot(times, score.frame_scores, "o-", color=FIRST, markersize=4, linewidth=1.6, label=labels[0])
            if other is not None and len(other.frame_scores) > 1:
                theirs = other.timestamps_seconds, other.frame_scores
                above.plot(*theirs, "--", color=SECOND, linewidth=1.2, label=labels[1])
            above.axhline(score.score, color=MUTED, linewidth=0.9, linestyle=":", label="score")
            above.set_ylabel("score")
            place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0}
            above.legend(**place, ncols=3, frameon=False, fontsize=8)
            for axes in below:
                width = 0.5 * float(np.diff(times).min()) if np.diff(times).min() > 0 else 0.02
                axes.bar(times, score.frame_weights, width, color=FIRST)
                axes.set_ylabel("weight")
                axes.set_ylim(bottom=0)
                above.sharex(axes)
                above.tick_params(labelbottom=False)
            (below or [above])[-1].set_xlabel("seconds")
            return self._embed(figure, "frame scores and weights over time")

    def distribution(self, values: Sequence[float]) -> Markup:
        """A histogram of scores, or of a part."""
        with mpl.rc_context(_SETTINGS):
            figure, (axes,) = _figure(2.0, width=5.2)
            bins = min(MOST_BINS, max(5, int(2 * len(values) ** 0.5)))
            axes.hist(values, bins=bins, color=FIRST, rwidth=0.92)
            axes.axvline(float(np.median(values)), color=INK, linewidth=1, linestyle=":")
            axes.set_xlabel(f"points (dotted: the median, {np.median(values):.1f})")
            axes.set_ylabel("videos")
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            return self._embed(figure, "distribution")

    def pairs(self, first: Sequence[float], second: Sequence[float]) -> Markup:
        """Second scores over first scores, and the line where both are the same."""
        with mpl.rc_context(_SETTINGS):
            figure, (axes,) = _figure(4.2, width=4.6)
            low, high = min(*first, *second), max(*first, *second)
            margin = 0.05 * (high - low) or 1.0
            ends = (low - margin, high + margin)
            axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle=":")
            axes.scatter(first, second, s=16, color=FIRST, linewidths=0)
            axes.set(xlim=ends, ylim=ends, xlabel="score in A", ylabel="score in B", aspect="equal")
            return self._embed(figure, "scores in B over scores in A")

    def _embed(self, figure: Figure, description: str) -> Markup:
        """The figure as an `svg` element without style attributes, whose ids occur once a page."""
        text = io.StringIO()
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
        root = ElementTree.fromstring(text.getvalue())
        self._count += 1
        for parent in list(root.iter()):
            for child in list(parent):
                if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                    parent.remove(child)
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', text.getvalue()))
        for element in root.iter():
            for name, value in list(element.attrib.items()):
                if name == "id":
                    del element.attrib[name]
                    if value in used:
                        element.set("id", f"f{self._count}-{value}")
                elif name == "style":
                    del element.attrib[name]
                    element.set("class", self._class_of(value))
                else:
                    element.set(name, re.sub(r"^(url\()?#", rf"\g<0>f{self._count}-", value))
        width, height = (float(root.attrib.pop(side).removesuffix("pt")) for side in ("width", "height"))
        root.attrib.update(role="img", width=f"{width:g}", height=f"{height:g}")
        root.set("aria-label", description)
        return Markup(ElementTree.tostring(root, encoding="unicode"))

    def _class_of(self, declarations: str) -> str:
        for color, variable in _VARIABLES.items():
            declarations = declarations.replace(color, f"var(--{variable})")
        return self._classes.setdefault(declarations, f"p{len(self._classes)}")


def _figure(height: float, *, width: float = 7.2, heights: Sequence[float] = (1,)) -> tuple[Figure, list[Axes]]:
    """A figure of this many inches with axes above each other, and room for their labels."""
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)
    figure.subplots_adjust(
        left=0.75 / width, right=1 - 0.12 / width, bottom=0.45 / height, top=1 - 0.25 / height, hspace=0.18
    )
    return figure, list(axes[:, 0])
