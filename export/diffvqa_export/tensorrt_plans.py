"""The backends `tensorrt` and `tensorrt-rtx`: the stages' ONNX files to plans, with what the manifest says of them."""

import functools
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffvqa_export.backends import Builder, export_onnx_stage
from diffvqa_export.context import BuildContext, BuildRequest, Built
from diffvqa_export.stages import STAGES
from diffvqa_export.tensorrt_build import architectures, engine_from_onnx
from diffvqa_export.work import Step
from diffvqa_rt.config import VIEWS
from diffvqa_rt.engines.tensorrt_library import Library, TensorRTName, load_library
from diffvqa_rt.specs import engine_specs


def tensorrt_builder(runtime: TensorRTName, request: BuildRequest) -> Builder:
    """The builder of one of the two.

    Raises:
        EngineBuildError: it does not build what the request says, or needs a GPU for that, and there is none.
        ModuleNotFoundError: the runtime is not installed.
    """
    library = load_library(runtime)
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
        settings={"videos": f"{profile.min} … {profile.max}, tuned for {profile.opt}", **facts[0]["settings"]},
        files={file: sha256 for step in steps.values() for file, sha256 in step.files.items()},
        engines={name: step.facts["file"] for name, step in steps.items()},
    )


def _build_plan(context: BuildContext, library: Library, gpus: tuple[str, ...], name: str) -> Step:
    request, runtime = context.request, library.runtime
    # The other stages have no scan, and one ONNX file serves all runtimes.
    onnx = export_onnx_stage(context, name, "tensorrt" if (runtime, name) == ("tensorrt", "head") else "any")
    options = {"strip_weights": request.strip_weights, "version_compatible": request.version_compatible}

    def make(folder: Path) -> dict[str, Any]:
        (folder / runtime).mkdir()
        file = f"{runtime}/{name}.plan"
        plan = engine_from_onnx(
            runtime,
            context.work.path / onnx.facts["file"],
            engine_specs(request.config)[name],
            len(VIEWS) * request.config.frames,
            request.profile,
            folder / file,
            provenance=context.provenance,
            timing_cache=context.work.path / f"{runtime}.timing-cache",
            **options,
        )
        if plan.is_stripped:
            for source in onnx.files:
                shutil.copy(context.work.path / source, folder / runtime)
        return {"file": file, "device": plan.device, "scan": plan.scan, "settings": plan.settings}

    inputs = {"onnx": onnx.files, "runtime": library.label, "profile": asdict(request.profile), "gpus": gpus, **options}
    return context.do(f"{runtime}: build {name}", inputs, make)
