"""What every backend's builder is given, and what it gives back."""

import functools
import gc
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import diffvqa_kernels
import onnx
import onnx_ir
import torch
from torch import nn

import diffvqa_export
import diffvqa_rt.chain
import diffvqa_rt.metrics.diffvqa.config
import diffvqa_rt.metrics.diffvqa.engines
import diffvqa_rt.models
import diffvqa_rt.sampler
import diffvqa_rt.specs
from diffvqa_export.precision import PRECISIONS, write_precision
from diffvqa_export.weights import ChosenWeights
from diffvqa_export.work import Step, WorkFolder
from diffvqa_rt.engines import BackendName
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.specs import Precision, Profile


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What to build.

    Attributes:
        weights: the network.
        backends: for which runtimes.
        out: the engine folder.
        clip: the real video that parity is measured on.
        precision: what the network computes in, but for what `precision.KEPT_IN_FLOAT32` lists.
        profile: how many videos at a time TensorRT's engines take.
        strip_weights: TensorRT plans without weights, which take them from the ONNX file beside them at opening.
        version_compatible: TensorRT plans that later versions of TensorRT open too.
    """

    weights: ChosenWeights
    backends: tuple[BackendName, ...]
    out: Path
    clip: Path
    precision: Precision = "fp32"
    profile: Profile = field(default_factory=Profile)
    strip_weights: bool = False
    version_compatible: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.backends) - set(get_args(BackendName))
        if unknown or not self.backends:
            raise ValueError(f"backends is {self.backends!r}; expected some of {', '.join(get_args(BackendName))}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if self.precision == "bf16" and "onnx" in self.backends:
            raise ValueError(
                "precision is 'bf16', and ONNX Runtime has no bfloat16 kernels for the CPU; expected fp32 or fp16 for "
                "the onnx backend, or onnx-cuda on a GPU"
            )
        if not {"tensorrt", "tensorrt-rtx"} & set(self.backends) and (self.strip_weights or self.version_compatible):
            raise ValueError(
                "weights are left out, and versions bridged, of TensorRT's plans alone; expected its backend"
            )

    @property
    def config(self) -> DiffVQAConfig:
        return self.weights.config


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """One backend's engines before they are compared; the fields are `BackendRecord`'s. `engines`: name → file."""

    runtime: str
    device: str
    scan: str
    files: dict[str, str]
    engines: dict[str, str]
    settings: dict[str, str]
    precision: Precision


class BuildContext:
    """One build: the request, the work folder, and the network, which the builders share.

    Args:
        network: its weights are turned into the request's precision in place, stage by stage, as builders ask for them.
        provenance: the line that goes into every engine that can carry it.
    """

    def __init__(self, request: BuildRequest, work: WorkFolder, network: DiffVQA, provenance: str) -> None:
        self.request = request
        self.work = work
        self.provenance = provenance
        self.parameter_count = sum(parameter.numel() for parameter in network.parameters())
        self._network: DiffVQA | None = network
        self._modules: dict[str, nn.Module] = {}

    @property
    def network(self) -> DiffVQA:
        assert self._network is not None, "released"
        return self._network

    def release(self) -> None:
        """Lets go of the network: at full size it is 5 GB, and the runtimes need the room."""
        self._network = None
        self._modules = {}
        gc.collect()
        torch.cuda.empty_cache()

    def module(self, name: str) -> nn.Module:
        """A stage of the network, in the request's precision."""
        if not self._modules:
            self._modules = stage_modules(self.network)
            for stage, module in self._modules.items():
                write_precision(stage, module, self.request.precision)
        return self._modules[name]

    def do(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], dict[str, Any]]) -> Step:
        """A step that depends on the network, its precision, torch and this source as well as on `inputs`."""
        everything = {
            "provenance": self.provenance,
            "precision": self.request.precision,
            "versions": [torch.__version__, onnx.__version__, onnx_ir.__version__],
            "source": source_sha256(),
            **inputs,
        }
        return self.work.do(name, everything, make)


SOURCES = (
    diffvqa_rt.metrics.diffvqa.config,
    diffvqa_rt.metrics.diffvqa.engines,
    diffvqa_rt.sampler,
    diffvqa_rt.specs,
    diffvqa_rt.chain,
)


@functools.cache
def source_sha256() -> str:
    """Of the code that decides what is built: the network, the kernels, the exporter."""
    digest = hashlib.sha256()
    for package in (diffvqa_rt.models, diffvqa_kernels, diffvqa_export):
        for folder in package.__path__:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    for module in SOURCES:
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()
