"""The backend `aot-inductor`: the stages to packages, for the GPU where torch sees one, for this CPU else."""

from pathlib import Path
from typing import Any

import torch

from diffvqa_export.backends.package_from_module import package_from_module
from diffvqa_export.context import BuildContext, Builder, BuildRequest
from diffvqa_export.export_stage import ExportJob
from diffvqa_export.work import Step
from diffvqa_rt.engines.inductor_backend import build_metadata
from diffvqa_rt.engines.manifest import BackendRecord


def inductor_builder(request: BuildRequest) -> Builder:
    return build_inductor


def build_inductor(context: BuildContext) -> BackendRecord:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made_for = build_metadata("", torch.device(device))

    def compile_stage(name: str) -> Step:
        file = f"aot-inductor/{name}.pt2"

        def make(folder: Path) -> dict[str, Any]:
            (folder / "aot-inductor").mkdir()
            job = ExportJob(
                stage=context.export.stages[name],
                module=context.module(name).to(device),
                config=context.request.config,
                spec=context.specs[name],
                path=folder / file,
                provenance=context.provenance,
            )
            package_from_module(job)
            return {"file": file}

        return context.do(f"aot-inductor: compile {name}", {"made_for": made_for}, make)

    return context.record(
        {name: compile_stage(name) for name in context.export.stages},
        runtime=f"torch {torch.__version__}",
        device=device,
        scan="Triton kernels" if device == "cuda" else "a C++ kernel",
    )
