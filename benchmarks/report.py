"""Turn `benchmarks/results` into a page that a person reads.

    python benchmarks/report.py            # writes benchmarks/REPORT.md, its SVG charts, and README's table
    python benchmarks/report.py --check    # exit status 1 if what is written is not what the results say
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charts import roofline_chart, save_svg, scaling_chart, speedup_chart
from machine import ROOT
from measured import RESULTS, Row, Run, groups, read_rows
from scaling import fitted_exponent

PAGE = ROOT / "benchmarks" / "REPORT.md"
README = ROOT / "README.md"
CITED = ROOT / "benchmarks" / "cited.json"
BEGIN, END = "<!-- written by benchmarks/report.py: begin -->", "<!-- written by benchmarks/report.py: end -->"
CHARTS = {"speedups": speedup_chart, "roofline": roofline_chart, "scaling": scaling_chart}
# In the tables' last column, in this order; what charts alone need is left out.
_FACTS: Mapping[str, str] = {
    "value": "{axis} = {value:g}",
    "clients": "{clients} clients",
    "videos_per_second": "{videos_per_second:.3g} videos/s",
    "p50_seconds": "p50 {p50_seconds:.3g} s",
    "p99_seconds": "p99 {p99_seconds:.3g} s",
    "overhead_seconds": "{overhead_seconds:.3g} s more than in-process",
    "share_of_matrix_product": "{share_of_matrix_product:.0%} of the matrix product's FLOP/s",
    "share_of_copy": "{share_of_copy:.0%} of the copy's B/s",
    "weights": "weights: {weights}",
    "file_bytes": "{file_bytes:,} bytes",
}


def duration(seconds: float) -> str:
    """Three digits, in the unit that reads best."""
    for factor, unit in [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]:
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def group_table(rows: Sequence[Row]) -> str:
    """One group as Markdown: the baseline's rows first."""
    has_memory = any("peak_memory_mib" in row.more for row in rows)
    header = ["", "median", "times as fast", *(["peak memory"] if has_memory else []), ""]
    lines = []
    for row in sorted(rows, key=lambda row: not row.is_baseline):
        ratios = ", ".join(f"{ratio:.2f}× {name}" for name, ratio in row.speedups.items())
        cells = [row.provider, duration(row.seconds), "baseline" if row.is_baseline else ratios]
        if has_memory:
            memory = row.more.get("peak_memory_mib")
            cells.append(f"{memory:,.0f} MiB" if memory else "")
        cells.append("; ".join(text.format(**row.more) for name, text in _FACTS.items() if name in row.more))
        lines.append(cells)
    for place in reversed(range(len(header))):
        if not any(line[place] for line in lines):
            del header[place]
            for line in lines:
                del line[place]
    return _table(header, lines)


def exponents(rows: Sequence[Row]) -> str:
    """A sentence with each provider's fitted exponent, for a group in which one size was varied; else nothing."""
    fits = []
    for provider in dict.fromkeys(row.provider for row in rows if "axis" in row.more):
        points = [(row.more["value"], row.seconds) for row in rows if row.provider == provider]
        values, seconds = zip(*points, strict=True)
        fits.append(f"{provider} {fitted_exponent(values, seconds):.2f}")
    return f"Fitted exponents: {', '.join(fits)}.\n" if fits else ""


def machine_section(machine: str, rows: Sequence[Row], charts: Mapping[str, str]) -> str:
    """Everything that was measured on one machine."""
    runs = sorted({row.run.file: row.run for row in rows}.values(), key=lambda run: run.file)
    parts = [f"## {machine}\n", *(_provenance(run) for run in runs), ""]
    parts += [f"![{name} on {machine}]({file})\n" for name, file in charts.items()]
    for group, in_group in groups(rows).items():
        parts += [f"### {group}\n", group_table(in_group), exponents(in_group)]
    return "\n".join(part for part in parts if part is not None)


def cited_section(cited: Sequence[Mapping[str, Any]]) -> str:
    """What others publish about networks that do not run here: theirs, not measured by us."""
    rows = [[fact["name"], f"{fact['figure']} {fact['unit']}", fact["what"], fact["source"]] for fact in cited]
    return "## Cited, not measured\n\n" + _table(["", "figure", "of what", "source"], rows)


def write_report(results: Path, page: Path, cited: Path) -> list[Row]:
    """Writes the page and its charts beside it. Returns the rows that are in it."""
    rows = read_rows(results)
    sections = [
        "# What was measured\n\nWritten by `python benchmarks/report.py` from [`results/`](results/): change nothing here. "
        "Each group is one run's; the median of its rounds. `times as fast` is the median of the rounds' own ratios, of rows "
        "that took turns.\n"
    ]
    for number, machine in enumerate(dict.fromkeys(row.run.machine for row in rows), 1):
        of_machine = [row for row in rows if row.run.machine == machine]
        charts = {}
        for name, draw in CHARTS.items():
            if (figure := draw(of_machine)) is not None:
                charts[name] = f"{page.stem.lower()}-{name}-{number}.svg"
                save_svg(figure, page.parent / charts[name])
        sections.append(machine_section(machine, of_machine, charts))
    if cited.exists():
        sections.append(cited_section(json.loads(cited.read_text(encoding="utf-8"))))
    page.write_text("\n".join(sections), encoding="utf-8")
    return rows
