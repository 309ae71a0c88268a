"""What the benchmarks of the network set beside each other: its engines, under the names that their rows have.

On a CPU: `onnxruntime`, `aot_inductor` (one core a process, see its backend), `torch_compile` (the same compiler as a
user of torch meets it: this process, all threads), `pytorch` (eager, with all that this project gives it: the folds,
and the scan in numba) and `pytorch_plain_scan` (eager, with the scan in plain torch operators: what runs without
numba). On a GPU: `onnx-cuda`, `tensorrt`, and the three of torch there. `pytorch` is the baseline of all.
"""

import importlib.util
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffvqa_kernels.selective_scan.inductor_cpu  # noqa: F401  the scan as C++, for torch.compile too
import numpy as np
import onnxruntime
import pytest
import torch
from builds import Builds
from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.export_stage import ExportJob
from diffvqa_export.registry import metric_export, network_label
from diffvqa_export.weights import choose_weights, random_weights
from diffvqa_kernels.selective_scan import backends
from stage_runs import Engines, Run, StageInputs
from torch import nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from diffvqa_rt import Scorer
from diffvqa_rt.engines import BackendName, Engine, available_cpus, open_engines
from diffvqa_rt.engines.inductor_backend import TensorArray, keep_float32
from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.engines.onnx_backend import cpu_session_options, onnx_engine
from diffvqa_rt.engines.torch_backend import TorchEngine
from diffvqa_rt.extras import install_command
from diffvqa_rt.metric import Metric, ReadPrompt, Request
from diffvqa_rt.metrics.registry import metric_named
from diffvqa_rt.models.registry import models_of
from diffvqa_rt.preparation import prepare_frames
from diffvqa_rt.specs import Array, Arrays, EngineSpec
from diffvqa_rt.video import sample_frames

PRESET = "tiny"
"""The network of each metric that its rows are of, unless a group's name says another."""

PROMPT = "a green toy frog on a wooden table"
"""The prompt of every source, for a metric that takes one; it fits the clip."""

BASELINE = "pytorch"
CPU_PROVIDERS = ("onnxruntime", "aot_inductor", "torch_compile", BASELINE)
GPU_PROVIDERS = ("onnx-cuda", "tensorrt", "aot_inductor", "torch_compile", BASELINE)
# What the rows' engines are called elsewhere; all that is made in this process is torch.
BACKENDS: Mapping[str, BackendName] = {
    "onnxruntime": "onnx",
    "aot_inductor": "aot-inductor",
    "onnx-cuda": "onnx-cuda",
    "tensorrt": "tensorrt",
    "torch_compile": "torch",
    BASELINE: "torch",
}
# What this process makes itself, on any device; the others' engines are built.
MADE_HERE = (BASELINE, "pytorch_plain_scan", "torch_compile")
# What the packages of `aot-inductor` are compiled with.
COMPILE_OPTIONS = {"freezing": True}


def network_of(metric: str) -> str:
    """The name of the metric's network in the groups' names."""
    return network_label(metric, PRESET)


def compiled_stages(metric: str) -> list[str]:
    """The engines that `torch_compile` has rows of, most of the time of each metric.

    To compile one with a scan takes longer than to time it, and the scan becomes the same C++ as for `aot_inductor`.
    """
    return [name for name, stage in metric_export(metric).stages.items() if not stage.has_scan]


def asked(metric: Metric, **options: Any) -> Request:
    """The request of a row: with `PROMPT`, of a metric that takes one."""
    return Request(prompt=PROMPT if metric.prompts else None, **options)


def prepared(metric: Metric, config: Any, source: Path, request: Request | None = None) -> Arrays:
    """The arrays that the metric's chain starts from, of a file; by default as `asked` without options."""
    request = request or asked(metric)
    sampled = sample_frames(source, metric.frame_count(config, request))
    made = prepare_frames(sampled, metric, config, request, 0)
    read = prompt_reading(metric, config)
    return made.with_prompt(read(request.prompt) if read and request.prompt is not None else None).arrays


def prompt_reading(metric: Metric, config: Any) -> ReadPrompt | None:
    """The function that reads prompts, before there is an engine folder; None of a metric without them."""
    if metric.prompts is None:
        return None
    with TemporaryDirectory() as folder:
        for name, path in metric_export(metric.name).prompt_files(config, None).items():
            shutil.copy(path, Path(folder, name))
        return metric.prompts.open(config, Path(folder))


class PlainScan:
    """A torch engine whose scan takes the way of a machine without numba."""

    max_videos = None

    def __init__(self, engine: Engine) -> None:
        self.spec, self._engine = engine.spec, engine

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> Mapping[str, Array]:
        automatic = backends._automatic
        backends._automatic = lambda *_: "chunked"
        try:
            return self._engine(inputs, outputs)
        finally:
            backends._automatic = automatic


class TorchOnDevice:
    """A stage's module on a device. Arrays stay there from one engine to the next, as with the other GPU engines."""

    max_videos = None

    def __init__(self, spec: EngineSpec, module: nn.Module, device: str) -> None:
        self.spec, self._module, self._device = spec, module, device

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> Mapping[str, Array]:
        self.spec.check_inputs(inputs)
        results = self._module(*(self._tensor(inputs[tensor.name]) for tensor in self.spec.inputs))
        if self._device == "cuda":
            torch.cuda.synchronize()  # a stage's time is its own
        named = {tensor.name: TensorArray(result) for tensor, result in zip(self.spec.outputs, results, strict=True)}
        return {name: named[name] for name in outputs or named}

    def _tensor(self, array: Any) -> torch.Tensor:
        if isinstance(array, TensorArray):
            return array.tensor
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._device)


class Providers:
    """The engines of a metric's rows that will be timed, opened, built and compiled before the first of them.

    Args:
        builds: builds what engines have to be built.
        metric: the name of the metric.
        wanted: (device, provider) of each row, the baseline's not needed.
        clip: the video that the stages' inputs are made of.

    Attributes:
        metric, config: of the network.
        inputs: what the stages get of the clip.
        manifest: of the engines for this CPU.
    """

    def __init__(self, builds: Builds, metric: str, wanted: Iterable[tuple[str, str]], clip: Path) -> None:
        self.metric = metric_named(metric)
        self._weights = choose_weights(self.metric.preset_named(PRESET), None, metric=metric)
        self.config = self._weights.config
        keys = {("cpu", BASELINE), *wanted}
        keys |= {(device, BASELINE) for device, _ in keys}
        self._missing = {key: reason for key in keys if (reason := what_lacks(*key))}
        keys -= self._missing.keys()
        # One core builds, which takes the longest, while the other compiles: neither waits for the other.
        builds.start("onnx", metric)
        made_here = {key for key in keys if key[1] in MADE_HERE}
        self._engines = {(device, provider): self._make(device, provider) for device, provider in sorted(made_here)}
        self.inputs = StageInputs.of(
            self.metric.chain(self.config), self._engines["cpu", BASELINE], prepared(self.metric, self.config, clip)
        )
        for (_, provider), engines in self._engines.items():
            if provider == "torch_compile":
                runs = self.inputs.runs(engines)
                for stage in compiled_stages(metric):
                    runs[stage]()
        self.manifest = Manifest.read(builds.folder("onnx", metric))
        for device, provider in sorted(keys - made_here):
            backend = BACKENDS[provider]
            self._engines[device, provider] = open_engines(builds.folder(backend, metric), backend)[1]

    def engines(self, device: str, provider: str) -> Engines:
        """The engines of a row. Skips the test where the machine lacks what they need."""
        if reason := self._missing.get((device, provider)):
            pytest.skip(reason)
        return self._engines[device, provider]

    def scorer(self, device: str, provider: str) -> Scorer:
        """A scorer on the engines of a row. Skips as `engines`."""
        engines, read_prompt = self.engines(device, provider), prompt_reading(self.metric, self.config)
        return Scorer(self.manifest, engines, BACKENDS[provider], read_prompt=read_prompt)

    def runs(self, device: str, provider: str) -> dict[str, Run]:
        """`StageInputs.runs` of one video on the engines of a row. Skips as `engines`."""
        return self.inputs.runs(self.engines(device, provider))

    def _make(self, device: str, provider: str) -> Engines:
        modules = models_of(self.metric.name).stages(self._weights.load())
        if device == "cuda":
            keep_float32()
            modules = {name: module.cuda() for name, module in modules.items()}
        else:
            torch.set_num_threads(available_cpus())
        if provider == "torch_compile":
            modules |= {name: _compiled(modules[name]) for name in compiled_stages(self.metric.name)}
        specs = self.metric.engines(self.config)
        if device == "cuda":
            return {name: TorchOnDevice(specs[name], module, device) for name, module in modules.items()}
        engines = {name: TorchEngine(specs[name], module) for name, module in modules.items()}
        if provider == "pytorch_plain_scan":
            return {name: PlainScan(engine) for name, engine in engines.items()}
        return engines


def exported_beside_torch(metric: str, config: Any, stage: str, folder: Path) -> dict[str, Engine]:
    """One stage of a network with random weights, by provider: exported for ONNX Runtime, and in eager torch.

    No build: nothing is compared with torch here, so a caller compares what it times.
    """
    spec = metric_named(metric).engines(config)[stage]
    module = models_of(metric).stages(random_weights(config, metric=metric).load())[stage]
    path = folder / f"{stage}.onnx"
    export = metric_export(metric).stages[stage]
    onnx_from_module(ExportJob(stage=export, module=module, config=config, spec=spec, path=path, provenance=""))
    session = onnxruntime.InferenceSession(path, cpu_session_options(), providers=["CPUExecutionProvider"])
    torch.set_num_threads(available_cpus())
    return {"onnxruntime": onnx_engine(spec, session, available_cpus()), BASELINE: TorchEngine(spec, module)}


def what_lacks(device: str, provider: str) -> str | None:
    """Why a provider cannot run on this machine."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        return "needs an NVIDIA GPU"
    if provider == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        return f"needs TensorRT: {install_command('tensorrt')}"
    if provider == "onnx-cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"needs ONNX Runtime with CUDA: {install_command('gpu')}"
    if (device, provider) == ("cpu", "aot_inductor") and has_gpu:
        return "torch sees a GPU, and builds AOTInductor's packages for it"
    if provider in ("aot_inductor", "torch_compile"):
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "needs a C++ compiler: install g++, or name one in CXX"
    return None


def _compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, dynamic=False, options=COMPILE_OPTIONS)
