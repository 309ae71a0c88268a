"""What is in `benchmarks/results`: pytest-benchmark's rows, the newest of each group and machine."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratios import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One file of results: on which machine, when, of which commit (`+`: and what was not committed).

    `seconds`: how long it took with all that it built; None of before that was noted.
    """

    file: str
    machine: str
    date: str
    commit: str
    versions: Mapping[str, str]
    seconds: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The rows of a group, as `ratios` takes them, and the run that they are of."""

    name: str
    run: Run
    rows: tuple[Row, ...]


def read_groups(folder: Path) -> list[Group]:
    """The groups of every machine, from the newest run that has it.

    Raises:
        ValueError: a file is not JSON, or lacks what pytest-benchmark writes; names the file.
    """
    newest: dict[tuple[str, str], Group] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            measured = json.loads(path.read_text(encoding="utf-8"))
            # Manifests of builds, a soak's and a quality report are results too, and not pytest-benchmark's.
            found = list(_groups(path.name, measured)) if "benchmarks" in measured else []
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not what pytest-benchmark writes: {error!r}") from error
        for group in found:
            key = (group.run.machine, group.name)
            if key not in newest or newest[key].run.date < group.run.date:
                newest[key] = group
    return sorted(newest.values(), key=lambda group: group.run.machine)


def without_baseline(groups: Iterable[Group]) -> list[str]:
    """The names of the groups in which no row is what the others are compared with.

    Results of before rows said who they are (`provider`) are left out.
    """
    return [
        group.name
        for group in groups
        if any("provider" in row["extra_info"] for row in group.rows)
        and not any(row["extra_info"].get("baseline") for row in group.rows)
    ]


def _groups(file: str, measured: Mapping[str, Any]) -> Iterable[Group]:
    machine, commit = measured["machine_info"], measured["commit_info"]
    processor = f"{machine['cpu']['brand_raw']}, {machine['cpu']['count']} cores"
    run = Run(
        file=file,
        machine=f"{machine['gpu']}, {processor}" if machine.get("gpu") else processor,
        date=machine["date"],
        commit=commit["id"][:7] + ("+" if commit["dirty"] else ""),
        versions=machine["versions"],
        seconds=measured.get("run_seconds"),
    )
    by_name: dict[str, list[Row]] = {}
    for row in measured["benchmarks"]:
        kept = {"name": row["name"], "extra_info": row["extra_info"]}
        kept |= {name: row["stats"][name] for name in ("median", "rounds")}
        by_name.setdefault(row["group"] or row["name"], []).append(kept)
    return [Group(name=name, run=run, rows=tuple(rows)) for name, rows in by_name.items()]
