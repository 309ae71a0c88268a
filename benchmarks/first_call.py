"""What is between weights and a first output, in a process of its own: `bench_start` runs it and times it.

    python benchmarks/first_call.py METRIC PROVIDER FOLDER STAGE [STAGE ...]

Makes the metric's `tiny` with seeded weights, builds the stages for the provider into FOLDER, and calls each once.
`torch_compile` compiles at the first call, so every new process that is to use it does this; a compiler cache makes the
next quicker.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.backends.package_from_module import package_from_module
from diffvqa_export.export_stage import ExportJob
from diffvqa_export.registry import metric_export
from diffvqa_export.weights import random_weights

from diffvqa_rt.engines import Engine, available_cpus
from diffvqa_rt.engines.inductor_backend import InductorEngine
from diffvqa_rt.engines.torch_backend import TorchEngine
from diffvqa_rt.metrics.registry import metric_named
from diffvqa_rt.models.registry import models_of


def build(provider: str, job: ExportJob) -> Engine:
    """The stage as the provider's engine. Raises ValueError for an unknown provider."""
    if provider == "onnxruntime":
        import onnxruntime

        from diffvqa_rt.engines.onnx_backend import cpu_session_options, onnx_engine

        onnx_from_module(job)
        session = onnxruntime.InferenceSession(job.path, cpu_session_options(), providers=["CPUExecutionProvider"])
        return onnx_engine(job.spec, session, available_cpus())
    if provider == "aot_inductor":
        package_from_module(job)
        return InductorEngine(job.spec, job.path)
    if provider == "torch_compile":
        return TorchEngine(job.spec, torch.compile(job.module))
    if provider == "pytorch":
        return TorchEngine(job.spec, job.module)
    raise ValueError(f"provider is {provider!r}; expected onnxruntime, aot_inductor, torch_compile or pytorch")


def inputs_of(job: ExportJob) -> Mapping[str, np.ndarray]:
    """One row's, as the exporter's example is made; the same in every process."""
    torch.manual_seed(0)
    tensors = job.stage.example_inputs(job.config)
    return {
        border.name: tensor[:1].numpy() if tensor.ndim > 1 else tensor.numpy()
        for border, tensor in zip(job.spec.inputs, tensors, strict=True)
    }


def main(metric_name: str, provider: str, folder: str, *names: str) -> int:
    metric, export = metric_named(metric_name), metric_export(metric_name)
    config = metric.preset_named("tiny")
    specs = metric.engines(config)
    modules = models_of(metric_name).stages(random_weights(config, metric=metric_name).load())
    torch.set_num_threads(available_cpus())
    for name in names:
        path = Path(folder) / f"{name}.{'pt2' if provider == 'aot_inductor' else 'onnx'}"
        job = ExportJob(
            stage=export.stages[name],
            module=modules[name],
            config=config,
            spec=specs[name],
            path=path,
            provenance="",
        )
        outputs = build(provider, job)(inputs_of(job))
        print(name, *(float(np.abs(np.asarray(array)).mean()) for array in outputs.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
