"""The backend `aot-inductor`: the stages to packages, for the GPU where torch sees one, for this CPU else."""

from pathlib import Path
from typing import Any

import torch

from diffvqa_export.context import BuildContext, Built
from diffvqa_export.inductor_build import package_from_module
from diffvqa_export.stages import STAGES
from diffvqa_export.work import Step
from diffvqa_rt.engines.inductor_backend import build_metadata
from diffvqa_rt.metrics.diffvqa.engines import engine_specs


def build_inductor(context: BuildContext) -> Built:
    request = context.request
    device = "cuda" if torch.cuda.is_available() else "cpu"
    specs = engine_specs(request.config)

    def compile_stage(name: str) -> Step:
        def make(folder: Path) -> dict[str, Any]:
            (folder / "aot-inductor").mkdir()
            file = f"aot-inductor/{name}.pt2"
            module = context.module(name).to(device)
            package_from_module(STAGES[name], module, request.config, specs[name], folder / file, context.provenance)
            return {"file": file}

        made_for = build_metadata("", torch.device(device))
        return context.do(f"aot-inductor: compile {name}", {"made_for": made_for}, make)

    steps = {name: compile_stage(name) for name in STAGES}
    return Built(
        runtime=f"torch {torch.__version__}",
        precision=request.precision,
        device=device,
        scan="Triton kernels" if device == "cuda" else "a C++ kernel",
        settings={},
        files={file: sha256 for step in steps.values() for file, sha256 in step.files.items()},
        engines={name: step.facts["file"] for name, step in steps.items()},
    )
