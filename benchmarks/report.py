"""Turn `benchmarks/results` into what a person reads: `REPORT.md`, its charts and the tables of `docs/numbers.md`.

python benchmarks/report.py
python benchmarks/report.py --check    # writes nothing; exit status 1 where the results say something else
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from charts import CHARTS, save_svg
from machine import ROOT
from measured import Group, Run, read_groups
from ratios import exponents, label_of, ratios_of, readable

from diffvqa_rt.metrics.registry import METRICS, metric_named

BEGIN, END = "<!-- benchmarks/report.py writes from here -->", "<!-- to here -->"


def _stages() -> list[str]:
    """The engines and the loops of every metric, in the order in which they run."""
    chains = [metric.chain(next(iter(metric.presets.values()))) for metric in map(metric_named, METRICS)]
    return list(dict.fromkeys(name for chain in chains for item in chain for name in (item.engine, item.stage)))


# The groups of the page's tables, by how their names begin.
HEADLINES = (
    "score: a file",
    "score: a JPEG",
    "score: a clip",
    "preprocess: a file of 5 s",
    *_stages(),
    "selective_scan: forward,",
    "served",
    "start: process start to the first score",
)
# What a table says of a row beside its time, in this order.
FACTS: Mapping[str, str] = {
    "videos_per_second": "{:.3g} videos/s",
    "p50_seconds": "p50 {:.3g} s",
    "p99_seconds": "p99 {:.3g} s",
    "overhead_seconds": "{:.3g} s more than in-process",
    "bar": "bar: {}",
    "share_of_matrix_product": "{:.0%} of the matrix product's FLOP/s",
    "share_of_copy": "{:.1%} of the copy's bytes/s",
    "weights": "weights: {}",
}


def group_table(group: Group) -> str:
    """A group's rows as Markdown."""
    has_memory = any("peak_memory_mib" in row["extra_info"] for row in group.rows)
    lines = []
    for row in group.rows:
        extra = row["extra_info"]
        memory = [f"{extra['peak_memory_mib']:,.0f} MiB" if "peak_memory_mib" in extra else ""] if has_memory else []
        facts = "; ".join(text.format(extra[name]) for name, text in FACTS.items() if name in extra)
        lines.append([label_of(row), readable(row["median"]), ratios_of(row, group.rows), *memory, facts])
    header = ["", "median", "times as fast as", *(["peak memory"] if has_memory else []), ""]
    fits = "".join(f"\n{line}\n" for line in exponents(group.rows))
    return markdown_table(header, lines) + fits


def headlines(groups: Sequence[Group]) -> str:
    """The tables of `docs/numbers.md`: what users ask first. Each machine has a line a group, and their sources."""
    parts = []
    for machine, own in by_machine(groups).items():
        lines, runs = [], []
        for group in (group for prefix in HEADLINES for group in own if group.name.startswith(prefix)):
            ours = [row for row in group.rows if not row["extra_info"].get("baseline")]
            theirs = [row for row in group.rows if row["extra_info"].get("baseline")]
            if not ours or not theirs:
                continue
            best = min(ours, key=lambda row: row["median"])
            times = [f"{label_of(row)}: {readable(row['median'])}" for row in (best, *theirs)]
            lines.append([group.name, times[0], "; ".join(times[1:]), ratios_of(best, group.rows)])
            runs.append(group.run)
        if lines:
            table = markdown_table(["", "fastest", "baseline", "times as fast as"], lines)
            parts.append("\n".join([f"{machine}:\n", table, *_provenances(runs, "../benchmarks/results")]) + "\n")
    return "\n".join(parts)


def by_machine(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """In the groups' order."""
    machines: dict[str, list[Group]] = {}
    for group in groups:
        machines.setdefault(group.run.machine, []).append(group)
    return machines


def _provenances(runs: Sequence[Run], results: str) -> list[str]:
    """A line of a list for each file, with its path from the page."""
    lines = []
    for run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
        when = run.date[:10] + (f", in {run.seconds // 60} min {run.seconds % 60} s" if run.seconds else "")
        lines.append(f"* [`{run.file}`]({results}/{run.file}): {when}, commit {run.commit}; {versions}.")
    return list(dict.fromkeys(lines))


def cited_section(cited: Mapping[str, Any]) -> str:
    """`cited.json` as Markdown."""
    figures = [
        [fact["name"], f"{fact['figure']} {fact['unit']}", fact["what"], fact["source"]] for fact in cited["figures"]
    ]
    missing = [f"* {fact['name']}: {fact['what']} ({fact['source']})." for fact in cited["without_figures"]]
    table = markdown_table(["", "figure", "of", "source"], figures)
    return "\n".join(["## Cited, not measured\n", f"{cited['note']}\n", table, *missing, ""])


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Without the columns that are empty throughout."""
    kept = [place for place, name in enumerate(header) if name or place == 0 or any(line[place] for line in lines)]
    rows = [[row[place] for place in kept] for row in (header, ["---"] * len(header), *lines)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def write_report(groups: Sequence[Group], cited: Mapping[str, Any], folder: Path) -> None:
    """Writes `REPORT.md` and its charts into a folder."""
    parts = [
        "# What was measured\n",
        "`python benchmarks/report.py` writes this page from [`results/`](results/). A time is the median of its "
        "rounds; `times as fast as` is the median of the rounds' own ratios for rows that took turns, and the ratio "
        "of the medians where it says so. Of each group the newest run counts.\n",
    ]
    for number, (machine, own) in enumerate(by_machine(groups).items(), 1):
        parts += [f"## {machine}\n", *_provenances([group.run for group in own], "results"), ""]
        for name, draw in CHARTS.items():
            if (figure := draw(own)) is not None:
                save_svg(figure, folder / f"report-{number}-{name}.svg")
                parts.append(f"![{name}](report-{number}-{name}.svg)\n")
        for group in own:
            parts += [f"### {group.name}\n", group_table(group)]
    (folder / "REPORT.md").write_text("\n".join([*parts, cited_section(cited)]), encoding="utf-8")


def with_headlines(page: str, groups: Sequence[Group]) -> str:
    """The page's text with what is between its two marks written anew. Raises ValueError where they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/numbers.md lacks {BEGIN!r} or, after it, {END!r}")
    return f"{before}{BEGIN}\n\n{headlines(groups)}\n{END}{after}"


def differences(ours: Path, written: Path) -> list[str]:
    """The files of a fresh report that are not the same in `ours`, and those that it no longer has."""
    fresh = {path.name for path in written.iterdir()}
    old = {path.name for pattern in ("REPORT.md", "report-*.svg") for path in ours.glob(pattern)}
    changed = {name for name in fresh & old if (ours / name).read_bytes() != (written / name).read_bytes()}
    return sorted(changed | fresh ^ old)


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; say what is not as the results have it")
    arguments = parser.parse_args(argv)
    folder, page = root / "benchmarks", root / "docs" / "numbers.md"
    try:
        groups = read_groups(folder / "results")
        text = with_headlines(page.read_text(encoding="utf-8"), groups)
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    cited = json.loads((folder / "cited.json").read_text(encoding="utf-8"))
    if not arguments.check:
        for old in folder.glob("report-*.svg"):
            old.unlink()
        write_report(groups, cited, folder)
        page.write_text(text, encoding="utf-8")
        return 0
    with TemporaryDirectory() as fresh:
        write_report(groups, cited, Path(fresh))
        stale = differences(folder, Path(fresh))
    if text != page.read_text(encoding="utf-8"):
        stale.append("numbers.md")
    for name in stale:
        print(f"report: {name} is not what benchmarks/results says; run python benchmarks/report.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
