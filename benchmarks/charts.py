"""The report's pictures, as SVG: speed-ups, the roofline, and times against sizes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from ceilings import COPY, PRODUCT
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from measured import Group
from ratios import Row, label_of, provider_of, speedups_of
from scaling import fitted_exponent

from diffvqa_rt.evaluation.figures import COLORS, new_figure

_WIDTH_INCHES = 9.0
_BAR_INCHES = 0.24
_INK = "#333333"
_PANELS_ABREAST = 3
_SMALL = 8


def save_svg(figure: Figure, path: Path) -> None:
    """Writes the same bytes for the same figure, with text as text."""
    # Without a salt of its own every run names its clip paths anew.
    with mpl.rc_context({"svg.hashsalt": "diffvqa", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def speedup_chart(groups: Sequence[Group]) -> Figure | None:
    """A bar for each row that took turns with a baseline, on a logarithmic axis; None if none did."""
    bars = {group.name: [(row, *over) for row in group.rows for over in speedups_of(row).items()] for group in groups}
    bars = {name: in_group for name, in_group in bars.items() if in_group and not name.startswith("roofline")}
    if not bars:
        return None
    lines = sum(len(in_group) + 1.6 for in_group in bars.values())
    figure = new_figure(_WIDTH_INCHES, lines * _BAR_INCHES + 0.7)
    axes = figure.add_subplot()
    y, ticks = 0.0, {}
    for name, in_group in bars.items():
        axes.text(
            0, y, name, transform=axes.get_yaxis_transform(), weight="bold", color=_INK, fontsize=_SMALL, va="center"
        )
        for row, baseline, ratio in in_group:
            y += 1
            is_faster = ratio >= 1
            axes.barh(y, ratio - 1, left=1, height=0.75, color=COLORS[0] if is_faster else COLORS[5])
            _annotate(
                axes, f"{ratio:.3g}×", (ratio, y), (4 if is_faster else -4, 0), ha="left" if is_faster else "right"
            )
            ticks[y] = f"{label_of(row)} over {baseline}"
        y += 1.6
    axes.set_xscale("log")
    ratios = [ratio for in_group in bars.values() for _, _, ratio in in_group]
    axes.set_xlim(min(0.5, min(ratios) / 1.6), max(2.0, max(ratios) * 1.6))
    axes.set_ylim(y - 0.6, -0.8)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=_SMALL)
    axes.tick_params(axis="y", length=0)
    axes.axvline(1, color=_INK, linewidth=0.8)
    axes.set_xlabel("times as fast as the baseline, in turns with it", fontsize=_SMALL)
    _plain_numbers(axes, "x")
    _strip(axes)
    return figure


def roofline_chart(groups: Sequence[Group]) -> Figure | None:
    """Every stage by its arithmetic intensity, below what a matrix product and a copy reach on the same machine."""
    rooflines = [group for group in groups if group.name.startswith("roofline")]
    rows = [row for group in rooflines for row in group.rows]
    ceilings = {name: [row for row in rows if provider_of(row) == name] for name in (PRODUCT, COPY)}
    if not all(ceilings.values()):
        return None
    peak = float(np.median([row["extra_info"]["flops_per_second"] for row in ceilings[PRODUCT]]))
    copy = float(np.median([row["extra_info"]["bytes_per_second"] for row in ceilings[COPY]]))
    figure = new_figure(_WIDTH_INCHES, 4.6)
    axes = figure.add_subplot()
    points = [
        (group.name.partition(": ")[2].partition(" ")[0], row)
        for group in rooflines
        for row in group.rows
        if provider_of(row) not in ceilings
    ]
    providers = list(dict.fromkeys(provider_of(row) for _, row in points))
    intensities = [row["extra_info"]["flops"] / row["extra_info"]["bytes"] for _, row in points]
    reach = np.geomspace(min(*intensities, peak / copy) / 3, max(*intensities, peak / copy) * 3, 200)
    axes.plot(reach, np.minimum(peak, copy * reach), color=_INK, linewidth=1.2)
    _annotate(axes, f"matrix product: {peak / 1e9:,.0f} GFLOP/s", (reach[-1], peak), (0, 6), ha="right")
    _annotate(axes, f"copy: {copy / 1e9:,.1f} GB/s", (reach[0], copy * reach[0]), (12, -2))
    for (stage, row), intensity in zip(points, intensities, strict=True):
        extra, color = row["extra_info"], COLORS[providers.index(provider_of(row))]
        place = (intensity, extra["flops_per_second"])
        axes.plot(*place, "o", color=color)
        share = extra[f"share_of_{PRODUCT}"]
        # In two lines: stages that are near each other on the axis have room side by side.
        _annotate(axes, f"{stage}\n{provider_of(row)}: {share:.1%}", place, (7, 0), color=color)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP for each byte of inputs, weights and outputs", fontsize=_SMALL)
    axes.set_ylabel("FLOP/s; beside each point its share of the matrix product's", fontsize=_SMALL)
    axes.tick_params(labelsize=_SMALL)
    _strip(axes)
    return figure


def scaling_chart(groups: Sequence[Group]) -> Figure | None:
    """A panel for each group in which one size was varied, with the fitted exponent of each provider."""
    varied = [group for group in groups if any("axis" in row["extra_info"] for row in group.rows)]
    if not varied:
        return None
    abreast = min(_PANELS_ABREAST, len(varied))
    down = -(-len(varied) // abreast)
    figure = new_figure(_WIDTH_INCHES, 3.2 * down)
    for place, group in enumerate(varied, 1):
        axes = figure.add_subplot(down, abreast, place)
        for color, (provider, (values, seconds)) in zip(COLORS, _lines(group.rows).items(), strict=False):
            power = f" ∝ {fitted_exponent(values, seconds):.2f}" if len(values) > 1 else ""
            axes.plot(values, seconds, "o-", color=color, linewidth=1.2, markersize=4, label=provider + power)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(group.name.replace(": ", ":\n", 1), fontsize=_SMALL)
        axes.set_xlabel(
            next(row["extra_info"]["axis"] for row in group.rows if "axis" in row["extra_info"]), fontsize=_SMALL
        )
        axes.set_ylabel("seconds", fontsize=_SMALL)
        axes.set_xticks(sorted({value for values, _ in _lines(group.rows).values() for value in values}))
        _plain_numbers(axes, "x", "y")
        axes.tick_params(labelsize=_SMALL - 1)
        axes.legend(fontsize=_SMALL - 1, frameon=False)
        _strip(axes)
    return figure


CHARTS: Mapping[str, Callable[[Sequence[Group]], Figure | None]] = {
    "speedups": speedup_chart,
    "roofline": roofline_chart,
    "scaling": scaling_chart,
}


def _lines(rows: Iterable[Row]) -> dict[str, tuple[list[float], list[float]]]:
    """Values, ascending, and seconds, by provider."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    varied = [row for row in rows if "axis" in row["extra_info"]]
    for row in sorted(varied, key=lambda row: row["extra_info"]["value"]):
        values, seconds = lines.setdefault(provider_of(row), ([], []))
        values.append(row["extra_info"]["value"])
        seconds.append(row["median"])
    return lines


def _annotate(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    points: tuple[float, float],
    *,
    ha: str = "left",
    color: str = _INK,
) -> None:
    axes.annotate(
        text, place, xytext=points, textcoords="offset points", ha=ha, va="center", fontsize=_SMALL, color=color
    )


def _plain_numbers(axes: Axes, *names: str) -> None:
    for name in names:
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _strip(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
