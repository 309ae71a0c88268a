"""The table at the end of a run: each group's rows, their medians, and their ratios over the group's baseline."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scaling import fitted_exponent

Row = Mapping[str, Any]
"""A row of pytest-benchmark: `name`, `median` in seconds, and `extra_info` as `conftest` describes it."""

_OVER = "speedup_over_"


def table(groups: Iterable[tuple[str, Sequence[Row]]]) -> list[str]:
    """Lines of text: a group's name, then a line for each row, and one for each fitted exponent."""
    lines: list[str] = []
    for name, rows in groups:
        lines += ["", name or "(no group)"]
        cells = [*_rows(rows), *_absent_baselines(rows)]
        width = max(len(label) for label, *_ in cells)
        lines += [f"  {label:<{width}}  {readable(seconds):>9}  {ratios}".rstrip() for label, seconds, ratios in cells]
        lines += [f"  {line}" for line in exponents(rows)]
    return lines


def exponents(rows: Sequence[Row]) -> list[str]:
    """For rows that carry an `axis` and a `value`: how each provider's time grows with it."""
    by_series: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "axis" in row["extra_info"]:
            by_series.setdefault((provider_of(row), row["extra_info"]["axis"]), []).append(row)
    lines = []
    for (provider, axis), series in by_series.items():
        values = [row["extra_info"]["value"] for row in series]
        if len(set(values)) > 1:
            lines.append(f"{provider}: time ∝ {axis}^{fitted_exponent(values, [row['median'] for row in series]):.2f}")
    return lines


def readable(seconds: float) -> str:
    """Three digits in the unit that suits: 1.09 s, 12.8 ms, 3.86 µs."""
    # Where three digits would round to the next unit's 1, that unit.
    unit, scale = ("s", 1) if seconds >= 0.9995 else ("ms", 1e3) if seconds >= 0.9995e-3 else ("µs", 1e6)
    return f"{seconds * scale:#.3g}".rstrip(".") + f" {unit}"


def _rows(rows: Sequence[Row]) -> list[tuple[str, float, str]]:
    return [(label_of(row), row["median"], ratios_of(row, rows)) for row in rows]


def _absent_baselines(rows: Sequence[Row]) -> list[tuple[str, float, str]]:
    """Baselines that took turns with a row and have none of their own."""
    present = {provider_of(row) for row in rows}
    timed = {name: s for row in rows for name, s in row["extra_info"].get("baseline_seconds", {}).items()}
    return [(name, seconds, "baseline, in turns") for name, seconds in timed.items() if name not in present]


def label_of(row: Row) -> str:
    """The provider that a row is of, and its place on the axis."""
    extra = row["extra_info"]
    return f"{provider_of(row)}, {extra['axis']} = {extra['value']}" if "axis" in extra else provider_of(row)


def provider_of(row: Row) -> str:
    """The provider that a row is of."""
    return row["extra_info"].get("provider", row["name"])


def speedups_of(row: Row) -> dict[str, float]:
    """Over each baseline that took turns with it."""
    extra = row["extra_info"]
    return {name.removeprefix(_OVER): ratio for name, ratio in extra.items() if name.startswith(_OVER)}


def ratios_of(row: Row, rows: Sequence[Row]) -> str:
    """The row's speed over the baselines, in words; `rows` are its group's."""
    extra = row["extra_info"]
    if extra.get("baseline"):
        return "baseline"
    if ratios := speedups_of(row):
        return ", ".join(f"{ratio:.3g} x {name}" for name, ratio in ratios.items())
    baselines = [other for other in rows if other["extra_info"].get("baseline")]
    ratios = {provider_of(other): other["median"] / row["median"] for other in baselines}
    return ", ".join(f"{ratio:.3g} x {name}, of medians" for name, ratio in ratios.items())
