"""The backends `tensorrt` and `tensorrt-rtx`: the stages' ONNX files to plans, with what the manifest says of them."""

import functools
import hashlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from diffvqa_export.backends import Builder, export_onnx_stage
from diffvqa_export.context import BuildContext, BuildRequest, Built, source_sha256
from diffvqa_export.stages import STAGES
from diffvqa_export.tensorrt_build import architectures, engine_from_onnx
from diffvqa_export.work import Step
from diffvqa_rt.engines.manifest import MAX_VIDEOS
from diffvqa_rt.engines.tensorrt_library import Library, TensorRTName, load_library
from diffvqa_rt.metrics.diffvqa.config import VIEWS
from diffvqa_rt.metrics.diffvqa.engines import engine_specs


def tensorrt_builder(runtime: TensorRTName, request: BuildRequest) -> Builder:
    """The builder of one of the two.

    Raises:
        EngineBuildError: it does not build what the request says, or needs a GPU for that, and there is none.
        ModuleNotFoundError: the runtime is not installed.
    """
    library = load_library(runtime)
    if not library.is_rtx:
        import diffvqa_kernels.selective_scan.tensorrt  # noqa: F401  its plugins need Triton: better missed now than later
    gpus = architectures(library, strip_weights=request.strip_weights, version_compatible=request.version_compatible)
    return functools.partial(_build, library=library, gpus=gpus)


def _build(context: BuildContext, *, library: Library, gpus: tuple[str, ...]) -> Built:
    steps = {name: _build_plan(context, library, gpus, name) for name in STAGES}
    facts = [step.facts for step in steps.values()]
    profile = context.request.profile
    return Built(
        runtime=library.label,
        precision=context.request.precision,
        device=facts[0]["device"],
        scan=next(fact["scan"] for fact in facts if fact["scan"]),
        settings={MAX_VIDEOS: str(profile.max), "tuned for videos": str(profile.opt), **facts[0]["settings"]},
        files={file: sha256 for step in steps.values() for file, sha256 in step.files.items()},
        engines={name: step.facts["file"] for name, step in steps.items()},
    )


def _build_plan(context: BuildContext, library: Library, gpus: tuple[str, ...], name: str) -> Step:
    request, runtime = context.request, library.runtime
    # The other stages have no scan, and one ONNX file serves all runtimes; a refit reads standard nodes only.
    has_plugins = runtime == "tensorrt" and name == "head" and not request.strip_weights
    onnx_step = export_onnx_stage(context, name, "tensorrt" if has_plugins else "any")
    onnx_path = context.work.path / onnx_step.facts["file"]
    file = f"{runtime}/{name}.plan"
    options = {"strip_weights": request.strip_weights, "version_compatible": request.version_compatible}

    def make(folder: Path) -> dict[str, Any]:
        (folder / runtime).mkdir()
        plan = engine_from_onnx(
            runtime,
            onnx_path,
            engine_specs(request.config)[name],
            len(VIEWS) * request.config.frames,
            request.profile,
            folder / file,
            provenance="" if request.strip_weights else context.provenance,
            timing_cache=context.work.path / f"{runtime}.timing-cache",
            **options,
        )
        return {"file": file, "device": plan.device, "scan": plan.scan, "settings": plan.settings}

    # Without weights, a plan is that of a graph, whichever checkpoint it came from.
    made_from = _graph_sha256(onnx_path) if request.strip_weights else onnx_step.files
    inputs: dict[str, Any] = {
        "onnx": made_from,
        "source": source_sha256(),
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
    """Of an ONNX file without its weights: the large ones are in another file, the small ones in the graph."""
    model = onnx.load(onnx_path, load_external_data=False)
    del model.metadata_props[:]
    for tensor in model.graph.initializer:
        if tensor.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL):
            tensor.ClearField("raw_data")
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
