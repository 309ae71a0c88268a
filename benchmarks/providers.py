"""What the benchmarks of the network set beside each other: its engines, under the names that their rows have.

On a CPU: `onnxruntime`, `aot_inductor` (one core a process, see its backend), `torch_compile` (the same compiler as a
user of torch meets it: this process, all threads), `pytorch` (eager, with all that this project gives it: the folds,
and the scan in numba) and `pytorch_plain_scan` (eager, with the scan in plain torch operators: what runs without
numba). On a GPU: `onnx-cuda`, `tensorrt`, and the three of torch there. `pytorch` is the baseline of all.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffvqa_kernels.selective_scan.inductor_cpu  # noqa: F401  the scan as C++, for torch.compile too
import numpy as np
import onnxruntime
import pytest
import torch
from builds import Builds
from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.export_stage import ExportJob
from diffvqa_export.weights import choose_weights
from diffvqa_kernels.selective_scan import backends
from numpy.typing import NDArray
from torch import nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from diffvqa_rt.chain import Chain, play
from diffvqa_rt.engines import BackendName, Engine, available_cpus, open_engines
from diffvqa_rt.engines.inductor_backend import TensorArray, keep_float32
from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.engines.onnx_backend import OnnxEngine, cpu_session_options
from diffvqa_rt.engines.torch_backend import TorchEngine
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.metrics.diffvqa.views import make_views
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.specs import Array, EngineSpec
from diffvqa_rt.video import sample_frames

BASELINE = "pytorch"
CPU_PROVIDERS = ("onnxruntime", "aot_inductor", "torch_compile", BASELINE)
GPU_PROVIDERS = ("onnx-cuda", "tensorrt", "aot_inductor", "torch_compile", BASELINE)
# Nine tenths of a video's time. To compile the head takes longer than to time it, and its scan becomes the same C++ as
# for `aot_inductor`.
COMPILED_STAGES = ("vae_encoder", "unet_controller")
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

Run = Callable[[], NDArray]
Engines = Mapping[str, Engine]


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
    """The engines of the rows that will be timed, opened, built and compiled before the first of them.

    Args:
        builds: builds what engines have to be built.
        wanted: (device, provider) of each row, the baseline's not needed.
        clip: the video that the stages' inputs are made of.

    Attributes:
        inputs: what the stages get of the clip.
        manifest: of the engines for this CPU.
    """

    def __init__(self, builds: Builds, wanted: Iterable[tuple[str, str]], clip: Path) -> None:
        self._weights = choose_weights(TINY, None)
        keys = {("cpu", BASELINE), *wanted}
        keys |= {(device, BASELINE) for device, _ in keys}
        self._missing = {key: reason for key in keys if (reason := what_lacks(*key))}
        keys -= self._missing.keys()
        # One core builds, which takes the longest, while the other compiles: neither waits for the other.
        builds.start("onnx")
        made_here = {key for key in keys if key[1] in MADE_HERE}
        self._engines = {(device, provider): self._make(device, provider) for device, provider in sorted(made_here)}
        self.inputs = StageInputs.of(self._engines["cpu", BASELINE], TINY, clip)
        for (_, provider), engines in self._engines.items():
            if provider == "torch_compile":
                runs = self.inputs.runs(engines)
                for stage in COMPILED_STAGES:
                    runs[stage]()
        self.manifest = Manifest.read(builds.folder("onnx"))
        for device, provider in sorted(keys - made_here):
            backend = BACKENDS[provider]
            self._engines[device, provider] = open_engines(builds.folder(backend), backend)[1]

    def engines(self, device: str, provider: str) -> Engines:
        """The engines of a row. Skips the test where the machine lacks what they need."""
        if reason := self._missing.get((device, provider)):
            pytest.skip(reason)
        return self._engines[device, provider]

    def runs(self, device: str, provider: str) -> dict[str, Run]:
        """`StageInputs.runs` of one video on the engines of a row. Skips as `engines`."""
        return self.inputs.runs(self.engines(device, provider))

    def _make(self, device: str, provider: str) -> Engines:
        modules = stage_modules(self._weights.load())
        if device == "cuda":
            keep_float32()
            modules = {name: module.cuda() for name, module in modules.items()}
        else:
            torch.set_num_threads(available_cpus())
        if provider == "torch_compile":
            modules |= {name: _compiled(modules[name]) for name in COMPILED_STAGES}
        specs = engine_specs(TINY)
        if device == "cuda":
            return {name: TorchOnDevice(specs[name], module, device) for name, module in modules.items()}
        engines = {name: TorchEngine(specs[name], module) for name, module in modules.items()}
        if provider == "pytorch_plain_scan":
            return {name: PlainScan(engine) for name, engine in engines.items()}
        return engines


def exported_beside_torch(config: DiffVQAConfig, stage: str, folder: Path) -> dict[str, Engine]:
    """One stage of a network with random weights, by provider: exported for ONNX Runtime, and in eager torch.

    No build: nothing is compared with torch here, so a caller compares what it times.
    """
    spec = engine_specs(config)[stage]
    module = stage_modules(random_network(config))[stage]
    path = folder / f"{stage}.onnx"
    onnx_from_module(ExportJob(stage=STAGES[stage], module=module, config=config, spec=spec, path=path, provenance=""))
    session = onnxruntime.InferenceSession(path, cpu_session_options(), providers=["CPUExecutionProvider"])
    torch.set_num_threads(available_cpus())
    return {"onnxruntime": OnnxEngine(spec, session, available_cpus()), BASELINE: TorchEngine(spec, module)}


def what_lacks(device: str, provider: str) -> str | None:
    """Why a provider cannot run on this machine."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        return "needs an NVIDIA GPU"
    if provider == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        return "needs TensorRT: pip install 'diffvqa-rt[tensorrt]'"
    if provider == "onnx-cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "needs ONNX Runtime with CUDA: pip uninstall onnxruntime; pip install 'diffvqa-rt[gpu]'"
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


@dataclass(frozen=True, slots=True)
class StageInputs:
    """The inputs of each stage on a real video, made by the baseline's engines.

    Attributes:
        chain: what runs.
        frames: views [V, 2N, 3, S, S] in [−1, 1].
        z0: the latents [V, 2N, C, h, w].
        head: the head's inputs by name.
    """

    chain: Chain
    frames: NDArray[np.float32]
    z0: NDArray[np.float32]
    head: Mapping[str, NDArray[np.float32]]

    @classmethod
    def of(cls, engines: Engines, config: DiffVQAConfig, clip: Path) -> "StageInputs":
        chain = METRIC.chain(config)
        frames = make_views(sample_frames(clip, config.frames).frames, config.view_size)
        z0 = play(chain[:1], engines, {"frames": frames})["z0"]
        features = play(chain[1:2], engines, {"z0": z0})
        return cls(chain, frames, z0, {**features, "frames": frames})

    def of_videos(self, videos: int) -> "StageInputs":
        """The same video, `videos` times."""
        frames, z0, head = np.repeat(self.frames, videos, 0), np.repeat(self.z0, videos, 0), self.head.items()
        return StageInputs(self.chain, frames, z0, {name: np.repeat(array, videos, 0) for name, array in head})

    def runs(self, engines: Engines) -> dict[str, Run]:
        """Calls by stage: each runs it on these engines and returns its first output; `score` is the whole chain."""
        # A step in the middle: step 0 would make its own z.
        _, loop, _ = self.chain
        step = {"z": self.z0, "z0": self.z0, "step": np.array([loop.count // 2])}
        return {
            "vae_encoder": lambda: np.asarray(engines["vae_encoder"]({"frames": self.frames})["z0"]),
            "unet_controller": lambda: np.asarray(engines["unet_controller"](step)["z_next"]),
            "denoise": lambda: play((loop,), engines, {"z0": self.z0})["z0_hat"],
            "head": lambda: np.asarray(engines["head"](self.head)["frame_scores"]),
            "score": lambda: play(self.chain, engines, {"frames": self.frames})["frame_scores"],
        }
