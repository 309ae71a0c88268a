"""What a backend's builder does: from the network to the files of its engines."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import onnxscript
import torch
from diffvqa_kernels.selective_scan.onnx import ScanRuntime
from safetensors import SafetensorError
from safetensors.torch import save_file

from diffvqa_export.context import BuildContext, BuildRequest, Built
from diffvqa_export.onnx_export import export_onnx
from diffvqa_export.stages import STAGES
from diffvqa_export.work import Step
from diffvqa_rt.engines import EXTRAS, BackendName
from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.metrics.diffvqa.engines import engine_specs

Builder = Callable[[BuildContext], Built]


def export_onnx_stage(context: BuildContext, name: str, runtime: ScanRuntime = "any") -> Step:
    """A stage as an ONNX file, `onnx/STAGE.onnx` with its weights in `onnx/STAGE.onnx.data`.

    For TensorRT, whose scan is a plugin, in a folder of its own.
    """
    config = context.request.config
    folder_name = "onnx" if runtime == "any" else f"onnx-{runtime}"

    def make(folder: Path) -> dict[str, Any]:
        (folder / folder_name).mkdir()
        path = folder / folder_name / f"{name}.onnx"
        module, spec = context.module(name), engine_specs(config)[name]
        export_onnx(STAGES[name], module, config, spec, path, context.provenance, runtime)
        return {"file": f"{folder_name}/{name}.onnx"}

    return context.do(f"{folder_name}: export {name}", {"onnxscript": onnxscript.__version__}, make)


def build_onnx(context: BuildContext, *, device: str) -> Built:
    steps = {name: export_onnx_stage(context, name) for name in STAGES}
    return Built(
        runtime=f"onnxruntime {onnxruntime.__version__}",
        precision=context.request.precision,
        device=device,
        scan="Scan, in a function of standard operators",
        settings={},
        files={file: sha256 for step in steps.values() for file, sha256 in step.files.items()},
        engines={name: step.facts["file"] for name, step in steps.items()},
    )


def write_torch_weights(context: BuildContext) -> Built:
    """The weights in float32 for the network in Python, whatever the precision of the others: it is their baseline."""
    file = "torch/weights.safetensors"

    def make(folder: Path) -> dict[str, str]:
        (folder / "torch").mkdir()
        state = {name: tensor.contiguous() for name, tensor in context.network.state_dict().items()}
        try:
            save_file(state, folder / file)
        except SafetensorError as error:  # a full disk among others
            raise EngineBuildError(f"{folder / file} cannot be written: {error}") from error
        return {}

    return Built(
        runtime=f"torch {torch.__version__}",
        precision="fp32",
        device="cpu",
        scan="numba where it is installed, plain torch else",
        settings={},
        files=context.do("torch: write the weights", {}, make).files,
        engines=dict.fromkeys(STAGES, file),
    )


def builder_of(backend: BackendName, request: BuildRequest) -> Builder:
    """The function that builds a backend's engines.

    Raises:
        EngineBuildError: what it needs is not on this machine.
    """
    # Each runtime is imported where it is asked for: none needs another's packages.
    try:
        if backend == "tensorrt" or backend == "tensorrt-rtx":
            from diffvqa_export.tensorrt_plans import tensorrt_builder

            return tensorrt_builder(backend, request)
        if backend == "aot-inductor":
            from diffvqa_export.inductor_packages import build_inductor

            return build_inductor
        builders: dict[BackendName, Builder] = {
            "torch": write_torch_weights,
            "onnx": functools.partial(build_onnx, device="cpu"),
            "onnx-cuda": functools.partial(build_onnx, device="cuda"),
        }
        return builders[backend]
    except ModuleNotFoundError as error:
        raise EngineBuildError(
            f"the {backend} backend needs {error.name}, which is not installed: "
            f"pip install 'diffvqa-rt[{EXTRAS[backend]}]'"
        ) from error
