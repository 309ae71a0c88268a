"""The report's pictures, as SVG: speed-ups, the roofline, and times against sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from measured import Row, groups
from scaling import fitted_exponent

from diffvqa_rt.training.figures import COLORS, new_figure

_BAR_INCHES = 0.24
_WIDTH_INCHES = 9.0
_INK = "#333333"
_PANELS_ABREAST = 3


def save_svg(figure: Figure, path: Path) -> None:
    """Writes the same bytes for the same figure, with text as text."""
    # Without a fixed salt every run names its clip paths anew.
    with mpl.rc_context({"svg.hashsalt": "diffvqa", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def speedup_chart(rows: Sequence[Row]) -> Figure | None:
    """One bar for each row that was timed in turns with a baseline, on a logarithmic axis; None if there are none."""
    bars = [(row, name, ratio) for row in rows if not row.is_baseline for name, ratio in row.speedups.items()]
    if not bars:
        return None
    by_group = groups([row for row, _, _ in bars])
    lines = sum(len(in_group) + 1.6 for in_group in by_group.values())
    figure = new_figure(_WIDTH_INCHES, lines * _BAR_INCHES + 0.7)
    axes = figure.add_subplot()
    y, ticks = 0.0, []
    for group in by_group:
        axes.text(0.0, y, group, transform=axes.get_yaxis_transform(), weight="bold", color=_INK, fontsize=8, va="center")
        y += 1
        for row, baseline, ratio in bars:
            if row.group != group:
                continue
            axes.barh(y, ratio - 1, left=1, height=0.75, color=COLORS[0] if ratio >= 1 else COLORS[5])
            axes.annotate(
                f"{ratio:.2f}×", (ratio, y), xytext=(4 if ratio >= 1 else -4, 0), textcoords="offset points",
                ha="left" if ratio >= 1 else "right", va="center", fontsize=8, color=_INK,
            )  # fmt: skip
            ticks.append((y, f"{row.provider} over {baseline}"))
            y += 1
        y += 0.6
    axes.set_xscale("log")
    ratios = [ratio for _, _, ratio in bars]
    axes.set_xlim(min(0.5, min(ratios) / 1.6), max(2.0, max(ratios) * 1.6))
    axes.set_ylim(y - 0.4, -0.8)
    axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks], fontsize=8)
    axes.axvline(1, color=_INK, linewidth=0.8)
    axes.set_xlabel("times as fast as the baseline, timed in turns with it (logarithmic)", fontsize=8)
    _plain_numbers(axes.xaxis)
    axes.tick_params(axis="y", length=0)
    _strip(axes)
    return figure


def roofline_chart(rows: Sequence[Row]) -> Figure | None:
    """Every stage by its arithmetic intensity, below what a matrix product and a copy reach on the machine."""
    stages = [row for row in rows if "share_of_matrix_product" in row.more and not row.is_baseline]
    peaks = [row.more["flops_per_second"] for row in rows if row.is_baseline and row.more.get("flops")]
    copies = [row.more["bytes_per_second"] for row in rows if row.is_baseline and not row.more.get("flops")]
    if not stages or not peaks or not copies:
        return None
    peak, copy = max(peaks), max(copies)
    figure = new_figure(_WIDTH_INCHES, 4.6)
    axes = figure.add_subplot()
    intensities = [row.more["flops"] / row.more["bytes"] for row in stages]
    reach = np.geomspace(min(*intensities, peak / copy) / 3, max(*intensities, peak / copy) * 3, 200)
    axes.plot(reach, np.minimum(peak, copy * reach), color=_INK, linewidth=1.2)
    axes.annotate(f"matrix product, {_si(peak)}FLOP/s", (reach[-1], peak), xytext=(0, 4), textcoords="offset points",
                  ha="right", fontsize=8, color=_INK)  # fmt: skip
    axes.annotate(f"copy, {_si(copy)}B/s", (reach[0], copy * reach[0]), xytext=(8, -2), textcoords="offset points",
                  fontsize=8, color=_INK, va="top")  # fmt: skip
    providers = list(dict.fromkeys(row.provider for row in stages))
    for row, intensity in zip(stages, intensities, strict=True):
        color = COLORS[providers.index(row.provider) % len(COLORS)]
        axes.plot(intensity, row.more["flops_per_second"], "o", color=color)
        share = row.more["share_of_matrix_product"]
        axes.annotate(f"{row.more.get('stage', row.provider)}: {share:.0%}", (intensity, row.more["flops_per_second"]),
                      xytext=(6, -3), textcoords="offset points", fontsize=8, color=color)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP for each byte of inputs, weights and outputs", fontsize=8)
    axes.set_ylabel("FLOP/s", fontsize=8)
    axes.tick_params(labelsize=8)
    _strip(axes)
    return figure


def scaling_chart(rows: Sequence[Row]) -> Figure | None:
    """One panel for each axis that was varied, both axes logarithmic, with the fitted exponent of each provider."""
    varied = [row for row in rows if "axis" in row.more]
    by_group = groups(varied)
    if not by_group:
        return None
    abreast = min(_PANELS_ABREAST, len(by_group))
    down = -(-len(by_group) // abreast)
    figure = new_figure(_WIDTH_INCHES, 3.0 * down)
    for place, (group, in_group) in enumerate(by_group.items(), 1):
        axes = figure.add_subplot(down, abreast, place)
        for color, (provider, (values, seconds)) in zip(COLORS, _lines(in_group).items(), strict=False):
            exponent = fitted_exponent(values, seconds)
            axes.plot(values, seconds, "o-", color=color, linewidth=1.2, markersize=4,
                      label=f"{provider}: ∝ {exponent:.2f}")  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(group, fontsize=8)
        axes.set_xlabel(in_group[0].more["axis"], fontsize=8)
        axes.set_ylabel("seconds", fontsize=8)
        axes.set_xticks(sorted({row.more["value"] for row in in_group}))
        for axis in (axes.xaxis, axes.yaxis):
            _plain_numbers(axis)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7, frameon=False, title="power", title_fontsize=7)
        _strip(axes)
    return figure


def _lines(rows: Sequence[Row]) -> Mapping[str, tuple[list[float], list[float]]]:
    """Values and seconds by provider, ascending."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for row in sorted(rows, key=lambda row: row.more["value"]):
        values, seconds = lines.setdefault(row.provider, ([], []))
        values.append(row.more["value"])
        seconds.append(row.seconds)
    return lines


def _plain_numbers(axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _strip(axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(True, which="major", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)


def _si(number: float) -> str:
    for factor, prefix in [(1e12, "T"), (1e9, "G"), (1e6, "M")]:
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.3g} "
