"""The rows in `benchmarks/results`: what pytest-benchmark wrote, read once for the report and for whatever checks it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import ROOT

RESULTS = ROOT / "benchmarks" / "results"
_SPEEDUP = "speedup_over_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One file of results: the machine, when, and of which commit.

    `device` is the GPU if the run used one, else the processor; `versions` are of the packages that matter.
    """

    file: str
    device: str
    cpu_count: int
    date: str
    commit: str
    versions: Mapping[str, str]

    @property
    def machine(self) -> str:
        return f"{self.device}, {self.cpu_count} cores"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One benchmark: who (`provider`), in which group, the median of its rounds in seconds, and its speed-up over each
    baseline of the group, where it was timed in turns with one.
    """

    run: Run
    group: str
    provider: str
    seconds: float
    rounds: int
    is_baseline: bool
    speedups: Mapping[str, float]
    more: Mapping[str, Any]


def read_rows(folder: Path = RESULTS) -> list[Row]:
    """Every group of every machine, from the newest file that has it, in the order of that file.

    Raises:
        ValueError: a file is not JSON, or lacks what pytest-benchmark writes; names the file.
    """
    newest: dict[tuple[str, str], Run] = {}
    rows: list[Row] = []
    for path in sorted(folder.glob("*.json")):
        try:
            measured = json.loads(path.read_text(encoding="utf-8"))
            if "benchmarks" not in measured:
                continue
            in_file = list(_rows(path.name, measured))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not what pytest-benchmark writes: {error!r}") from error
        for row in in_file:
            key = (row.run.machine, row.group)
            if key not in newest or newest[key].date < row.run.date:
                newest[key] = row.run
        rows += in_file
    return [row for row in rows if newest[row.run.machine, row.group] == row.run]


def groups(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by their group, in order."""
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        by_group.setdefault(row.group, []).append(row)
    return by_group


def _rows(file: str, measured: Mapping[str, Any]) -> Iterable[Row]:
    machine, commit = measured["machine_info"], measured["commit_info"]
    for benchmark in measured["benchmarks"]:
        extra = dict(benchmark["extra_info"])
        run = Run(
            file=file,
            device=extra.get("gpu") or machine["cpu"]["brand_raw"],
            cpu_count=machine["cpu"]["count"],
            date=machine["date"],
            commit=commit["id"][:7] + ("+" if commit["dirty"] else ""),
            versions=machine["versions"],
        )
        speedups = {
            name.removeprefix(_SPEEDUP): extra.pop(name) for name in list(extra) if name.startswith(_SPEEDUP)
        }
        yield Row(
            run=run,
            group=benchmark["group"] or benchmark["name"],
            provider=extra.pop("provider", None) or benchmark["param"] or benchmark["name"],
            seconds=benchmark["stats"]["median"],
            rounds=benchmark["stats"]["rounds"],
            is_baseline=extra.pop("baseline", False),
            speedups=speedups,
            more=extra,
        )
