"""The backends `tensorrt` and `tensorrt-rtx`: the stages' ONNX files to plans."""

import functools
import hashlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from diffvqa_export.backends.onnx import export_onnx_stage
from diffvqa_export.backends.plan_from_onnx import PlanJob, architectures, plan_from_onnx
from diffvqa_export.context import BuildContext, Builder, BuildRequest
from diffvqa_export.sources import source_sha256
from diffvqa_export.work import Step
from diffvqa_rt.engines.manifest import MAX_VIDEOS, BackendRecord
from diffvqa_rt.engines.tensorrt_library import Library, load_library


def tensorrt_builder(request: BuildRequest) -> Builder:
    """The builder of TensorRT's plans, for this machine's GPU.

    Raises:
        EngineBuildError: it does not build what the request says, or there is no GPU.
        ModuleNotFoundError: TensorRT or the Triton language is not installed.
    """
    library = load_library("tensorrt")
    import diffvqa_kernels.selective_scan.tensorrt  # noqa: F401  so that a missing Triton fails before the export

    return _plan_builder(library, request)


def tensorrt_rtx_builder(request: BuildRequest) -> Builder:
    """The builder of TensorRT for RTX's plans, which needs no GPU but for plans without weights. Raises alike."""
    return _plan_builder(load_library("tensorrt-rtx"), request)


def _plan_builder(library: Library, request: BuildRequest) -> Builder:
    gpus = architectures(library, strip_weights=request.strip_weights, version_compatible=request.version_compatible)
    return functools.partial(_build, library=library, gpus=gpus)


def _build(context: BuildContext, *, library: Library, gpus: tuple[str, ...]) -> BackendRecord:
    steps = {name: _build_plan(context, library, gpus, name) for name in context.export.stages}
    facts = [step.facts for step in steps.values()]
    profile = context.request.profile
    return context.record(
        steps,
        runtime=library.label,
        device=facts[0]["device"],
        scan=next((fact["scan"] for fact in facts if fact["scan"]), ""),
        settings={MAX_VIDEOS: str(profile.max), "tuned for videos": str(profile.opt), **facts[0]["settings"]},
    )


def _build_plan(context: BuildContext, library: Library, gpus: tuple[str, ...], name: str) -> Step:
    request, runtime = context.request, library.runtime
    # A stage without a scan has one ONNX file for all runtimes; a refit reads standard nodes only.
    has_plugins = runtime == "tensorrt" and context.export.stages[name].has_scan and not request.strip_weights
    onnx_step = export_onnx_stage(context, name, "tensorrt" if has_plugins else "any")
    onnx_path = context.work.path / onnx_step.facts["file"]
    file = f"{runtime}/{name}.plan"
    options = {"strip_weights": request.strip_weights, "version_compatible": request.version_compatible}

    def make(folder: Path) -> dict[str, Any]:
        (folder / runtime).mkdir()
        job = PlanJob(
            runtime=runtime,
            onnx_path=onnx_path,
            spec=context.specs[name],
            sizes=context.export.dynamic_sizes(request.config),
            profile=request.profile,
            path=folder / file,
            provenance="" if request.strip_weights else context.provenance,
            timing_cache=context.work.path / f"{runtime}.timing-cache",
            **options,
        )
        plan = plan_from_onnx(job)
        return {"file": file, "device": plan.device, "scan": plan.scan, "settings": plan.settings}

    # Without weights, a plan is that of a graph, whichever checkpoint it came from.
    made_from = _graph_sha256(onnx_path) if request.strip_weights else onnx_step.files
    inputs: dict[str, Any] = {
        "onnx": made_from,
        "source": source_sha256(request.metric),
        "runtime": library.label,
        "profile": asdict(request.profile),
        "gpus": gpus,
        **options,
    }
    plan_step = context.work.do(f"{runtime}: build {name}", inputs, make)
    if not request.strip_weights:
        return plan_step

    def copy_weights(folder: Path) -> dict[str, Any]:
        (folder / runtime).mkdir()
        for source in onnx_step.files:
            shutil.copy(context.work.path / source, folder / runtime)
        return {}

    weights = context.work.do(f"{runtime}: weights of {name}", {"onnx": onnx_step.files}, copy_weights)
    return replace(plan_step, files=plan_step.files | weights.files)


def _graph_sha256(onnx_path: Path) -> str:
    """The hash of an ONNX file without its weights: the large ones are in another file, the small ones in the graph."""
    model = onnx.load(onnx_path, load_external_data=False)
    del model.metadata_props[:]
    for tensor in model.graph.initializer:
        if tensor.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL):
            tensor.ClearField("raw_data")
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
