"""The build: weights in, an engine folder out.

Every step is kept in a work folder with the hash of its inputs, and the engine folder is put together from there by a
rename when all of it is proven: an interrupted build goes on where it stopped, and no folder is ever half there.
"""

import dataclasses
import datetime
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import onnxscript
import torch

import diffvqa_rt
from diffvqa_export.backends.table import builder_of
from diffvqa_export.context import BuildContext, BuildRequest
from diffvqa_export.parity import measure_parity, refuse_dead_network, worst_of
from diffvqa_export.reference import Reference, record_reference
from diffvqa_export.work import Progress, WorkFolder, peak_memory_bytes
from diffvqa_rt.engines import BackendName, available_cpus, open_backend
from diffvqa_rt.engines.backends import BACKENDS
from diffvqa_rt.engines.manifest import (
    BackendRecord,
    BuildRecord,
    Manifest,
    WeightsRecord,
    parity_from_dict,
)
from diffvqa_rt.engines.torch_backend import torch_engines
from diffvqa_rt.engines.verification import unlisted_files
from diffvqa_rt.errors import DeviceUnavailableError, EngineBuildError, ParityError
from diffvqa_rt.files import sha256_of
from diffvqa_rt.metric import Metric, Request
from diffvqa_rt.metrics.registry import metric_named
from diffvqa_rt.models.registry import models_of
from diffvqa_rt.models.weights import weights_sha256
from diffvqa_rt.preparation import PreparedSource, prepare_frames
from diffvqa_rt.specs import MANIFEST_NAME
from diffvqa_rt.video import DECODING_VERSION, sample_frames

PACKAGES = (diffvqa_rt, numpy, onnx, onnxruntime, onnxscript, torch)

# From here on per-frame engines on a CPU are compared on few frames alone: a minute at full size, where all take ten.
_LARGE_NETWORK = 100_000_000
_FEW_FRAMES = 2


def build_engines(request: BuildRequest, progress: Progress) -> Manifest:
    """Exports, verifies and writes the engine folder `request.out`; an older one there is replaced.

    `progress` is called with the name of each step as it begins.

    Raises:
        ParityError: an engine is further from torch than its tolerance, or the network gives different sources one
            score; `out` is left as it was.
        EngineBuildError: a step failed, another build is at work, or `out` holds something else than engines.
        VideoDecodeError: the parity clip cannot be read.
        ValueError: the weights don't fit the network.
    """
    refuse_what_cannot_be_built(request)
    out = request.out.resolve()
    backends = sorted(request.backends, key=lambda name: BACKENDS[name].build_turn)
    builders = {name: builder_of(name, request) for name in backends}
    config = request.config
    metric = metric_named(request.metric)
    with WorkFolder(out, progress) as work:
        prompt_files = _copy_prompt_files(request, metric, work)
        sources = _parity_sources(request, metric, work.path)
        progress(f"load the weights: {request.weights.source}")
        network = request.weights.load()
        manifest = Manifest(
            metric_name=request.metric,
            config=config,
            weights=WeightsRecord(
                sha256=weights_sha256(network), is_trained=request.weights.is_trained, source=request.weights.source
            ),
            build=_build_record(),
            backends={},
            prompt_files=prompt_files,
        )
        context = BuildContext(request, work, network, manifest.provenance)
        del network
        clip = {
            "clip": ", ".join(sources),
            "clip_sha256": sha256_of(request.clip),
            "decoding": DECODING_VERSION,
        }
        if set(request.backends) != {"torch"}:  # which would be compared with itself
            _record_reference(context, metric, sources, clip)
        built = {name: build(context) for name, build in builders.items()}
        context.release()
        records: dict[str, BackendRecord] = {}
        for name in request.backends:
            records[name] = _with_parity(context, name, built[name], manifest, tuple(sources), clip)
        files = {*prompt_files, *(file for record in records.values() for file in record.files)}
        took = dataclasses.replace(
            manifest.build,
            step_seconds={name: step.seconds for name, step in work.steps.items()},
            file_bytes={file: (work.path / file).stat().st_size for file in sorted(files)},
            peak_memory_bytes=max(peak_memory_bytes(), *(step.peak_memory_bytes for step in work.steps.values())),
        )
        manifest = dataclasses.replace(manifest, build=took, backends=records)
        # Again: hours may have passed.
        refuse_to_replace_other_files(out)
        work.put_in_place(files, manifest)
    return manifest


def _copy_prompt_files(request: BuildRequest, metric: Metric, work: WorkFolder) -> dict[str, str]:
    """The files that prompts are read with, in the work folder; their SHA-256 by name."""
    wanted = metric.prompt_files(request.config)
    files: dict[str, str] = {}
    for name, path in request.export.prompt_files(request.config, request.vocabulary).items():

        def copy(folder: Path, name: str = name, path: Path = path) -> dict[str, Any]:
            shutil.copyfile(path, folder / name)
            return {}

        files |= work.do(f"copy {name}", {"sha256": wanted[name]}, copy).files
    return files


def _parity_sources(request: BuildRequest, metric: Metric, folder: Path) -> dict[str, PreparedSource]:
    read_prompt = metric.prompts.open(request.config, folder) if metric.prompts else None
    sources = {}
    for name, source in request.export.parity_sources(request.config, request.clip).items():
        prompt = read_prompt(source.prompt) if read_prompt and source.prompt is not None else None
        prepared = prepare_frames(source.frames, metric, request.config, Request(crops=1), 0)
        sources[name] = prepared.with_prompt(prompt)
    return sources


def refuse_what_cannot_be_built(request: BuildRequest) -> None:
    """Refuses what needs no computing to be refused. Raises EngineBuildError, or VideoDecodeError for the clip."""
    refuse_to_replace_other_files(request.out.resolve())
    request.export.prompt_files(request.config, request.vocabulary)
    for name in request.backends:
        builder_of(name, request)
    sample_frames(request.clip, count=1)


def refuse_to_replace_other_files(out: Path) -> None:
    """Raises EngineBuildError unless `out` is free, empty, or an engine folder with nothing else in it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        # Read loosely: engines of an older format are there to be replaced.
        values = json.loads((out / MANIFEST_NAME).read_text(encoding="utf-8"))
        listed = {file for record in values["backends"].values() for file in record["files"]}
        listed.update(values.get("prompt_files", ()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise EngineBuildError(f"{out} exists and is not an engine folder; choose another --out or remove it") from None
    foreign = unlisted_files(out, listed)
    if foreign:
        raise EngineBuildError(f"{foreign[0]} is not part of the engines in {out}; move it, or choose another --out")


def _record_reference(
    context: BuildContext, metric: Metric, sources: Mapping[str, PreparedSource], clip: Mapping[str, Any]
) -> None:
    def make(folder: Path) -> dict[str, Any]:
        config, network = context.request.config, context.network
        engines = torch_engines(metric.engines(config), models_of(metric.name).stages(network))
        scores = {}
        for name, source in sources.items():
            path = _reference_path(folder, name)
            path.parent.mkdir(exist_ok=True)
            scores[name] = record_reference(metric, config, engines, source, path)
        refuse_dead_network(scores, config)
        return {}

    # Of the weights as they are, whatever the engines' precision.
    context.do(f"reference: float32 torch on {clip['clip']}", {**clip, "precision": "fp32"}, make)


def _with_parity(
    context: BuildContext,
    name: BackendName,
    record: BackendRecord,
    manifest: Manifest,
    sources: Sequence[str],
    clip: Mapping[str, Any],
) -> BackendRecord:
    """The record with its comparison, or with the reason why there is none."""
    if name == "torch":
        return dataclasses.replace(record, without_parity="the reference itself; nothing to compare")

    def make(folder: Path) -> dict[str, Any]:
        engines = open_backend(name, context.work.path, manifest, record, available_cpus())
        is_on_cpu = record.device == "cpu"
        report = worst_of(
            measure_parity(
                engines,
                Reference(_reference_path(context.work.path, source)),
                manifest.metric,
                manifest.config,
                context.export.stages,
                record.precision,
                source,
                frames=_FEW_FRAMES if is_on_cpu and context.parameter_count > _LARGE_NETWORK else None,
                is_same_alone=is_on_cpu,
            )
            for source in sources
        )
        if report.failures:
            raise ParityError(
                f"{manifest.model_label}, {name}: {'; '.join(report.failures)}. Nothing was written to "
                f"{context.request.out}"
            )
        return dataclasses.asdict(report)

    bars = {stage.name: stage.tolerances[record.precision].relative for stage in context.export.stages.values()}
    inputs = {**clip, "files": record.files, "runtime": record.runtime, "device": record.device, "bars": bars}
    inputs |= {"machine": manifest.build.machine}
    try:
        step = context.do(f"{name}: compare with torch on {clip['clip']}", inputs, make)
    except DeviceUnavailableError as error:
        return dataclasses.replace(record, without_parity=str(error))
    return dataclasses.replace(record, parity=parity_from_dict(step.facts))


def _reference_path(folder: Path, source: str) -> Path:
    return folder / "reference" / f"{source}.npz"


def _build_record() -> BuildRecord:
    return BuildRecord(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=f"{_cpu_name()}, {available_cpus()} CPUs",
        commit=_commit(),
        # The module's word, not the distribution's: onnxruntime comes in several.
        versions={package.__name__: package.__version__ for package in PACKAGES},
    )


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines: Sequence[str] = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """The source's commit, with a + where the checkout differs from it; empty outside a checkout."""
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
