"""What is between weights and a first output, in a process of its own: `bench_start` runs it and times it.

    python benchmarks/first_call.py PROVIDER FOLDER STAGE [STAGE ...]

Makes `tiny` with seeded weights, builds the stages for the provider into FOLDER, and calls each once. `torch_compile`
compiles at the first call, so every new process that is to use it does this; a compiler cache makes the next quicker.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.backends.package_from_module import package_from_module
from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.export_stage import ExportJob
from diffvqa_export.weights import random_weights

from diffvqa_rt.engines import Engine, available_cpus
from diffvqa_rt.engines.inductor_backend import InductorEngine
from diffvqa_rt.engines.torch_backend import TorchEngine
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.specs import EngineSpec


def build(provider: str, name: str, spec: EngineSpec, module: torch.nn.Module, folder: Path) -> Engine:
    """The stage as the provider's engine. Raises ValueError for an unknown provider."""
    if provider == "onnxruntime":
        import onnxruntime

        from diffvqa_rt.engines.onnx_backend import OnnxEngine, cpu_session_options

        path = folder / f"{name}.onnx"
        onnx_from_module(job_of(name, spec, module, path))
        session = onnxruntime.InferenceSession(path, cpu_session_options(), providers=["CPUExecutionProvider"])
        return OnnxEngine(spec, session, available_cpus())
    if provider == "aot_inductor":
        path = folder / f"{name}.pt2"
        package_from_module(job_of(name, spec, module, path))
        return InductorEngine(spec, path)
    if provider == "torch_compile":
        return TorchEngine(spec, torch.compile(module))
    if provider == "pytorch":
        return TorchEngine(spec, module)
    raise ValueError(f"provider is {provider!r}; expected onnxruntime, aot_inductor, torch_compile or pytorch")


def job_of(name: str, spec: EngineSpec, module: torch.nn.Module, path: Path) -> ExportJob:
    return ExportJob(stage=STAGES[name], module=module, config=TINY, spec=spec, path=path, provenance="")


def inputs_of(name: str, spec: EngineSpec) -> Mapping[str, np.ndarray]:
    """One video's, as the exporter's example is made; the same in every process."""
    torch.manual_seed(0)
    tensors = STAGES[name].example_inputs(TINY)
    return {
        border.name: tensor[:1].numpy() if tensor.ndim > 1 else tensor.numpy()
        for border, tensor in zip(spec.inputs, tensors, strict=True)
    }


def main(provider: str, folder: str, *names: str) -> int:
    specs = engine_specs(TINY)
    modules = stage_modules(random_weights(TINY).load())
    torch.set_num_threads(available_cpus())
    for name in names:
        engine = build(provider, name, specs[name], modules[name], Path(folder))
        outputs = engine(inputs_of(name, specs[name]))
        print(name, *(float(np.abs(np.asarray(array)).mean()) for array in outputs.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
