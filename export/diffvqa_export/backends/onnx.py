"""The backends `onnx` and `onnx-cuda`: the stages' ONNX files, the same for both."""

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import onnxscript
from diffvqa_kernels.selective_scan.onnx import ScanRuntime

from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.backends.shared_weights import share_weights
from diffvqa_export.context import BuildContext, Builder, BuildRequest
from diffvqa_export.export_stage import ExportJob
from diffvqa_export.work import Step
from diffvqa_rt.engines.manifest import BackendRecord
from diffvqa_rt.files import sha256_of


def onnx_builder(request: BuildRequest) -> Builder:
    return functools.partial(_build, device="cpu")


def onnx_cuda_builder(request: BuildRequest) -> Builder:
    return functools.partial(_build, device="cuda")


def _build(context: BuildContext, *, device: str) -> BackendRecord:
    steps = {name: export_onnx_stage(context, name) for name in context.export.stages}
    return context.record(
        _with_shared_weights(context, steps) if context.request.share_weights else steps,
        runtime=f"onnxruntime {onnxruntime.__version__}",
        device=device,
        scan="Scan, in a function of standard operators",
    )


def export_onnx_stage(context: BuildContext, name: str, runtime: ScanRuntime = "any") -> Step:
    """A stage as an ONNX file, `onnx/STAGE.onnx` with its weights in `onnx/STAGE.onnx.data`.

    For TensorRT, whose scan is a plugin, in a folder of its own.
    """
    folder_name = "onnx" if runtime == "any" else f"onnx-{runtime}"
    file = f"{folder_name}/{name}.onnx"

    def make(folder: Path) -> dict[str, Any]:
        (folder / folder_name).mkdir()
        job = ExportJob(
            stage=context.export.stages[name],
            module=context.module(name),
            config=context.request.config,
            spec=context.specs[name],
            path=folder / file,
            provenance=context.provenance,
            runtime=runtime,
        )
        onnx_from_module(job)
        return {"file": file}

    return context.do(f"{folder_name}: export {name}", {"onnxscript": onnxscript.__version__}, make)


def _with_shared_weights(context: BuildContext, steps: Mapping[str, Step]) -> dict[str, Step]:
    """Each stage's file without the weights of the safetensors file, and that file's copy beside them."""
    weights = context.request.weights.file
    assert weights is not None, "the request was checked"
    sha256 = sha256_of(weights)

    def copy(folder: Path) -> dict[str, Any]:
        shutil.copyfile(weights, folder / weights.name)
        return {}

    def share(folder: Path, name: str) -> dict[str, Any]:
        share_weights(context.work.path / steps[name].facts["file"], weights, folder / f"{name}.onnx")
        return {"file": f"{name}.onnx"}

    shared = {
        name: context.do(
            f"onnx: {name} reads {weights.name}",
            {"graph": step.files, "weights": sha256},
            functools.partial(share, name=name),
        )
        for name, step in steps.items()
    }
    return {**shared, "weights": context.do(f"copy {weights.name}", {"sha256": sha256}, copy)}
