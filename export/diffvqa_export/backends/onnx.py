"""The backends `onnx` and `onnx-cuda`: the stages' ONNX files, the same for both."""

import functools
from pathlib import Path
from typing import Any

import onnxruntime
import onnxscript
from diffvqa_kernels.selective_scan.onnx import ScanRuntime

from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.context import BuildContext, Builder, BuildRequest
from diffvqa_export.export_stage import ExportJob
from diffvqa_export.work import Step
from diffvqa_rt.engines.manifest import BackendRecord


def onnx_builder(request: BuildRequest) -> Builder:
    return functools.partial(_build, device="cpu")


def onnx_cuda_builder(request: BuildRequest) -> Builder:
    return functools.partial(_build, device="cuda")


def _build(context: BuildContext, *, device: str) -> BackendRecord:
    return context.record(
        {name: export_onnx_stage(context, name) for name in context.export.stages},
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
