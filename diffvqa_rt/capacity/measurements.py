"""What was measured of one kind of device: how long each stage of a video takes, and what a server of it did.

Two kinds of file hold that. `diffvqa score --format json` writes an object a line, with `stage_seconds`. Of
pytest-benchmark's JSON the rows count whose `extra_info` has `stage_seconds` (a video), or `clients` (a server under so
many), with `preset` and `backend` where those are not `tiny` and `onnx`. Files of known devices are
`benchmarks/results/DATE-DEVICE-WHAT.json`; the wheel has them.
"""

import json
import math
import re
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffvqa_rt.errors import CapacityError
from diffvqa_rt.metric import PREPARATION
from diffvqa_rt.metrics.registry import DEFAULT, metric_named

# In a checkout, and as the wheel installs it.
_FOLDERS = (
    Path(__file__).parents[2] / "benchmarks" / "results",
    Path(sysconfig.get_path("data"), "share", "diffvqa_rt", "measured"),
)
_FILE_NAME = re.compile(r"\d{4}-\d\d-\d\d-(?P<device>.+)-\w+")

GPU_BACKENDS = ("onnx-cuda", "tensorrt", "tensorrt-rtx")
CPU_BACKENDS = ("onnx",)
"""The backends that are in neither run on both, and whoever asks says where they did."""

MOST_CLIENTS = 1024

# Rows of before `clients` was noted: as many clients as videos, all at once.
_CLIENTS_BY_NAME = {"test_one_video": 1, "test_sixteen_clients": 16}


StageSeconds = Mapping[str, float]
"""Seconds of one video that is alone on its device, by the metric's stage; 0 of one that its request did not take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedRow:
    """The work of a server under clients that each wait for their answer before they ask again.

    `videos`: how many were asked for in a round; None where it was long enough not to matter.
    """

    clients: int
    videos: int | None
    videos_per_second: float | None
    p50_seconds: float | None
    p99_seconds: float | None


Kind = tuple[str, str, str]
"""Metric, preset, backend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementFile:
    """One file's rows of one network and backend; `cores` and `commit` where it says them."""

    name: str
    metric: str
    preset: str
    backend: str
    cores: int | None
    commit: str
    videos: tuple[StageSeconds, ...]
    served: tuple[ServedRow, ...]
    overhead_seconds: float | None

    @property
    def kind(self) -> Kind:
        return self.metric, self.preset, self.backend


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The measurement that a plan rests on.

    Attributes:
        device: its name.
        is_gpu: whether the engines ran on a GPU; else on the cores.
        metric, preset, backend: the network and the runtime.
        cores: of the machine; beside a GPU, those that feed it.
        videos: stage times, one for each measured video.
        served: of the same device; may be empty.
        overhead_seconds: of a request beside the same video in-process; None where that was not measured.
        sources: the files, each with its commit.
    """

    device: str
    is_gpu: bool
    metric: str
    preset: str
    backend: str
    cores: int
    videos: tuple[StageSeconds, ...]
    served: tuple[ServedRow, ...]
    overhead_seconds: float | None
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The choice of a measurement: `is_gpu`, `metric`, `preset` and `backend` are None where any will do."""

    device: str
    is_gpu: bool | None
    metric: str | None = None
    preset: str | None = None
    backend: str | None = None
    cores: int | None = None

    def takes(self, file: MeasurementFile) -> bool:
        elsewhere = () if self.is_gpu is None else CPU_BACKENDS if self.is_gpu else GPU_BACKENDS
        return (
            file.backend not in elsewhere
            and self.metric in (None, file.metric)
            and self.preset in (None, file.preset)
            and self.backend in (None, file.backend)
        )


def known_measurement(wanted: Wanted) -> Measurement:
    """The newest measurement of a device that this project has measured.

    Raises:
        CapacityError: there is none, or it is of several networks or runtimes.
    """
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    by_device: dict[str, list[MeasurementFile]] = {}
    for path in sorted(folder.glob("*.json"), reverse=True) if folder else ():  # the newest first
        if match := _FILE_NAME.fullmatch(path.stem):
            by_device.setdefault(match["device"], []).extend(read_measurements(path))
    files = [file for file in by_device.get(wanted.device, ()) if wanted.takes(file)]
    if not any(file.videos for file in files):
        raise CapacityError(_nothing_known(wanted, by_device))
    # Older stage times, or an older server, of the same network and runtime are of older code.
    newest: dict[tuple[str, ...], MeasurementFile] = {}
    for file in files:
        if file.videos:
            newest.setdefault((*file.kind, "videos"), replace(file, served=()))
        if file.served:
            newest.setdefault((*file.kind, "served"), replace(file, videos=()))
    return _measurement(wanted, list(newest.values()), default_cores=None)


def kind_name(metric: str, preset: str, backend: str) -> str:
    """A network and its runtime for a person; the default metric goes without saying."""
    return f"{'' if metric == DEFAULT else f'{metric} '}{preset} by {backend}"


def _nothing_known(wanted: Wanted, by_device: Mapping[str, Sequence[MeasurementFile]]) -> str:
    option, kind, backend = ("--gpu", "GPU", "--backend BACKEND ") if wanted.is_gpu else ("--device", "device", "")
    known = sorted(
        f"{'--gpu' if file.backend in GPU_BACKENDS else '--device'} {device} ({kind_name(*file.kind)})"
        for device, files in by_device.items()
        for file in files
        if file.videos
    )
    what = " ".join(name for name in (wanted.metric, wanted.preset, wanted.backend and f"by {wanted.backend}") if name)
    return (
        f"there is no measurement {f'of {what} ' if what else ''}on a {kind} named {wanted.device} yet; on a machine "
        f"that has one, run `diffvqa score {backend}--format json VIDEO... > scores.json`, then `diffvqa plan "
        f"--measured scores.json {option} {wanted.device} ...`; measured so far: "
        f"{', '.join(dict.fromkeys(known)) or 'nothing'}"
    )


def measurement_from(paths: Sequence[Path], wanted: Wanted, this_machines_cores: int) -> Measurement:
    """The measurement in these files together; `this_machines_cores` stands in where they don't say whose they are.

    Raises:
        CapacityError: a file cannot be read or understood, has no stage times, or they are of several networks.
    """
    files = []
    for path in paths:
        found = read_measurements(path)
        if not found:
            raise CapacityError(
                f"{path} has no stage times; expected what `diffvqa score --format json` printed, or a benchmark's JSON"
            )
        files += [file for file in found if wanted.takes(file)]
    if not any(file.videos for file in files):
        where = {None: "", True: " on a GPU", False: " on a processor"}[wanted.is_gpu]
        what = "".join(f" of {name}" for name in (wanted.metric, wanted.preset, wanted.backend) if name)
        raise CapacityError(f"{', '.join(map(str, paths))} has no stage times{what}{where}")
    return _measurement(wanted, files, default_cores=this_machines_cores)


def _measurement(wanted: Wanted, files: Sequence[MeasurementFile], default_cores: int | None) -> Measurement:
    kinds = sorted({file.kind for file in files if file.videos})
    if len(kinds) > 1:
        found = "; ".join(kind_name(*kind) for kind in kinds)  # a network's name may have a comma
        raise CapacityError(
            f"these measurements are of several kinds ({found}); choose by --metric, --preset and --backend"
        )
    metric, preset, backend = kinds[0]
    if wanted.is_gpu is None and backend not in GPU_BACKENDS + CPU_BACKENDS:
        raise CapacityError(
            f"{backend} runs on GPUs and on processors; say where it did, by --gpu NAME or --device NAME"
        )
    files = [file for file in files if file.kind == kinds[0]]
    timed = [file for file in files if file.videos]
    cores = wanted.cores or timed[0].cores or default_cores
    if cores is None:
        raise CapacityError(f"{timed[0].name} does not say how many cores its machine has; say so with --cores")
    return Measurement(
        device=wanted.device,
        is_gpu=backend in GPU_BACKENDS or bool(wanted.is_gpu),
        metric=metric,
        preset=preset,
        backend=backend,
        cores=cores,
        videos=tuple(video for file in timed for video in file.videos),
        served=tuple(row for file in files for row in file.served),
        overhead_seconds=next((file.overhead_seconds for file in files if file.overhead_seconds is not None), None),
        sources=tuple(
            dict.fromkeys(f"{file.name} (commit {file.commit[:7]})" if file.commit else file.name for file in files)
        ),
    )


def read_measurements(path: Path) -> list[MeasurementFile]:
    """A file's measurements, by preset and backend; none where it holds something else.

    Raises:
        CapacityError: it cannot be read, is no JSON, or a measurement in it is not whole.
    """
    try:
        objects = _json_objects(path.read_text(encoding="utf-8"))
        if len(objects) == 1 and "benchmarks" in objects[0]:
            return _from_benchmark(path.name, objects[0])
        return _from_scores(path.name, objects)
    except OSError as error:
        raise CapacityError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise CapacityError(f"{path} is not a measurement as expected ({what})") from error


def _json_objects(text: str) -> list[dict[str, Any]]:
    """One object, or one a line."""
    try:
        objects = [json.loads(text)]
    except json.JSONDecodeError:
        objects = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(item, dict) for item in objects):
        raise ValueError("expected JSON objects")
    return objects


def _from_scores(name: str, objects: Iterable[Mapping[str, Any]]) -> list[MeasurementFile]:
    rows: dict[Kind, list[StageSeconds]] = {}
    for row in objects:
        if "stage_seconds" in row:  # a video that failed has none
            metric = _metric_of(row)
            kind = (metric, str(row["model"]).replace(" (untrained)", ""), str(row["backend"]))
            rows.setdefault(kind, []).append(_stage_seconds(metric, row["stage_seconds"]))
    return [
        MeasurementFile(
            name=name,
            metric=metric,
            preset=preset,
            backend=backend,
            cores=None,
            commit="",
            # The first of several also pays for whatever is loaded at first use, which a server has long done.
            videos=tuple(videos[1:] or videos),
            served=(),
            overhead_seconds=None,
        )
        for (metric, preset, backend), videos in rows.items()
    ]


def _from_benchmark(name: str, content: Mapping[str, Any]) -> list[MeasurementFile]:
    by_kind: dict[Kind, list[Mapping[str, Any]]] = {}
    for row in content["benchmarks"]:
        facts = row["extra_info"]
        # Eager torch is no engine and this process no server: what others are compared with is not what runs.
        if not facts.get("baseline") and ("stage_seconds" in facts or _clients(row)):
            kind = (_metric_of(facts), str(facts.get("preset", "tiny")), str(facts.get("backend", "onnx")))
            by_kind.setdefault(kind, []).append(row)
    files = []
    for (metric, preset, backend), rows in by_kind.items():
        facts = [row["extra_info"] for row in rows]
        timed = [each["stage_seconds"] for each in facts if "stage_seconds" in each]
        overheads = [_number("overhead_seconds", each) for each in facts if "overhead_seconds" in each]
        files.append(
            MeasurementFile(
                name=name,
                metric=metric,
                preset=preset,
                backend=backend,
                cores=int(content["machine_info"]["cpu"]["count"]),
                commit=str(content["commit_info"]["id"]),
                videos=tuple(_stage_seconds(metric, seconds) for seconds in timed),
                served=tuple(_served_row(row) for row in rows if _clients(row)),
                # It can come out below nothing where it is nothing.
                overhead_seconds=max(0.0, overheads[0]) if overheads else None,
            )
        )
    return files


def _clients(row: Mapping[str, Any]) -> int:
    if "clients" in row["extra_info"]:
        return int(_number("clients", row["extra_info"], lambda clients: 1 <= clients <= MOST_CLIENTS))
    is_old = "speedup_over_in_process" in row["extra_info"]
    return _CLIENTS_BY_NAME.get(str(row["name"]), 0) if is_old else 0


def _served_row(row: Mapping[str, Any]) -> ServedRow:
    facts, clients = row["extra_info"], _clients(row)

    def noted(name: str) -> float | None:
        return _number(name, facts, _is_positive) if name in facts else None

    if "clients" in facts:
        return ServedRow(
            clients=clients,
            videos=int(_number("videos", facts, lambda videos: 1 <= videos <= 1e5)) if "videos" in facts else None,
            videos_per_second=noted("videos_per_second"),
            p50_seconds=noted("p50_seconds"),
            p99_seconds=noted("p99_seconds"),
        )
    median = _number("median", row["stats"], _is_positive)
    return ServedRow(
        clients=clients,
        videos=clients,
        videos_per_second=clients / median,
        p50_seconds=median if clients == 1 else None,
        p99_seconds=None,
    )


def _metric_of(facts: Mapping[str, Any]) -> str:
    """The metric's name; what does not say it is from before there were several. Raises ValueError for another one."""
    return metric_named(str(facts.get("metric", DEFAULT))).name


def _stage_seconds(name: str, values: Mapping[str, Any]) -> StageSeconds:
    """Seconds of each stage of a metric: none of those that the video's chain does not have."""
    metric = metric_named(name)
    chains = metric.chains(next(iter(metric.presets.values()))).values()
    needed = [{*PREPARATION, *(item.stage for item in chain)} for chain in chains]
    missing = [stage for stage in metric.stages if stage not in values]
    if not any(stages <= values.keys() for stages in needed):
        raise ValueError(f"stage_seconds lacks {', '.join(missing)}")
    whole = dict.fromkeys(missing, 0.0) | dict(values)
    return {stage: _number(stage, whole, lambda value: value >= 0) for stage in metric.stages}


def _is_positive(value: float) -> bool:
    return value > 0


def _number(name: str, values: Mapping[str, Any], is_right: Callable[[float], bool] = lambda _: True) -> float:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not is_right(value):
        raise ValueError(f"{name} is {value!r}")
    return float(value)
