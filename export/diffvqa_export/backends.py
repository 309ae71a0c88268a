"""What a backend's builder does: from the network to the files of its engines."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import onnxscript
import torch
from diffvqa_kernels.selective_scan.onnx import ScanRuntime
from safetensors.torch import save_file

from diffvqa_export.context import BuildContext, BuildRequest, Built
from diffvqa_export.inductor_build import package_from_module
from diffvqa_export.onnx_export import export_onnx
from diffvqa_export.stages import STAGES
from diffvqa_export.work import Step
from diffvqa_rt.engines import EXTRAS, BackendName
from diffvqa_rt.engines.inductor_backend import build_metadata
from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.specs import engine_specs

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
        save_file(state, folder / file)
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


def build_inductor(context: BuildContext) -> Built:
    """Packages for the GPU where torch sees one, for this CPU else."""
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
        builders: dict[BackendName, Builder] = {
            "torch": write_torch_weights,
            "onnx": functools.partial(build_onnx, device="cpu"),
            "onnx-cuda": functools.partial(build_onnx, device="cuda"),
            "aot-inductor": build_inductor,
        }
        return builders[backend]
    except ModuleNotFoundError as error:
        raise EngineBuildError(
            f"the {backend} backend needs {error.name}, which is not installed: "
            f"pip install 'diffvqa-rt[{EXTRAS[backend]}]'"
        ) from error
