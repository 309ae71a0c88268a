"""A build's request, and the context that every backend's builder is given."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import nn

from diffvqa_export.metric_export import ChosenWeights, MetricExport
from diffvqa_export.precision import PRECISIONS, write_precision
from diffvqa_export.registry import metric_export
from diffvqa_export.sources import source_sha256
from diffvqa_export.work import Step, WorkFolder
from diffvqa_rt.engines.backends import BACKENDS, BackendName
from diffvqa_rt.engines.manifest import BackendRecord, EngineRecord
from diffvqa_rt.metrics.registry import DEFAULT, metric_named
from diffvqa_rt.models.registry import models_of
from diffvqa_rt.specs import EngineSpec, Precision, Profile


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """The choices of one build.

    Attributes:
        weights: the network.
        backends: the runtimes to build for.
        out: the engine folder.
        clip: the real video that parity is measured on.
        metric: the network's metric.
        precision: what the network computes in, but for what each stage's `kept_in_float32` lists.
        profile: how many videos at a time TensorRT's engines take.
        strip_weights: TensorRT plans without weights, which take them from the ONNX file beside them at opening.
        version_compatible: TensorRT plans that later versions of TensorRT open too.
        share_weights: ONNX engines that read their weights from a copy of the safetensors file, in half precision.
        vocabulary: the file that prompts are spelled with, for a network without one of its own.
    """

    weights: ChosenWeights
    backends: tuple[BackendName, ...]
    out: Path
    clip: Path
    metric: str = DEFAULT
    precision: Precision = "fp32"
    profile: Profile = field(default_factory=Profile)
    strip_weights: bool = False
    version_compatible: bool = False
    share_weights: bool = False
    vocabulary: Path | None = None

    def __post_init__(self) -> None:
        unknown = set(self.backends) - set(BACKENDS)
        if unknown or not self.backends:
            raise ValueError(f"backends is {self.backends!r}; expected some of {', '.join(BACKENDS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if self.precision == "bf16" and "onnx" in self.backends:
            raise ValueError(
                "precision is 'bf16', and ONNX Runtime has no bfloat16 kernels for the CPU; expected fp32 or fp16 for "
                "the onnx backend, or onnx-cuda on a GPU"
            )
        if self.share_weights and (self.backends != ("onnx",) or self.precision != "fp32"):
            raise ValueError(
                "--share-weights applies to the onnx backend in fp32 alone; "
                f"backends is {self.backends!r}, precision {self.precision!r}"
            )
        if self.share_weights and self.weights.file is None:
            raise ValueError(f"--share-weights needs weights in one safetensors file; they are {self.weights.source}")
        if self.strip_weights or self.version_compatible:
            tensorrt = [name for name, backend in BACKENDS.items() if backend.is_tensorrt]
            if not set(tensorrt) & set(self.backends):
                raise ValueError(
                    "--strip-weights and --version-compatible apply to TensorRT only; "
                    f"backends is {self.backends!r}, add {' or '.join(tensorrt)}"
                )

    @property
    def config(self) -> Any:
        return self.weights.config

    @property
    def export(self) -> MetricExport:
        return metric_export(self.metric)


class BuildContext:
    """One build: the request, the work folder, and the network, which the builders share.

    Args:
        network: its weights are turned into the request's precision in place, stage by stage, as builders ask for them.
        provenance: the line that goes into every engine that can carry it.
    """

    def __init__(self, request: BuildRequest, work: WorkFolder, network: nn.Module, provenance: str) -> None:
        self.request = request
        self.export = request.export
        self.specs: Mapping[str, EngineSpec] = metric_named(request.metric).engines(request.config)
        self.work = work
        self.provenance = provenance
        self.parameter_count = sum(parameter.numel() for parameter in network.parameters())
        self._network: nn.Module | None = network
        self._modules: dict[str, nn.Module] = {}

    @property
    def network(self) -> Any:
        """The metric's own network, of whichever class."""
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
            self._modules = models_of(self.request.metric).stages(self.network)
            for stage, module in self._modules.items():
                write_precision(self.export.stages[stage], module, self.request.precision)
        return self._modules[name]

    def do(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], dict[str, Any]]) -> Step:
        """A step that depends on the network, its precision, torch and this source as well as on `inputs`."""
        everything = {
            "provenance": self.provenance,
            "precision": self.request.precision,
            "versions": [torch.__version__, onnx.__version__, onnx_ir.__version__],
            "source": source_sha256(self.request.metric),
            **inputs,
        }
        return self.work.do(name, everything, make)

    def record(
        self,
        steps: Mapping[str, Step],
        *,
        runtime: str,
        device: str,
        scan: str,
        settings: Mapping[str, str] | None = None,
        precision: Precision | None = None,
    ) -> BackendRecord:
        """A backend's record, not yet compared. `steps`: by stage, the one that left its file, which `facts` names."""
        return BackendRecord(
            runtime=runtime,
            precision=precision or self.request.precision,
            device=device,
            scan=scan if any(stage.has_scan for stage in self.export.stages.values()) else "",
            settings=dict(settings or {}),
            files={file: sha256 for step in steps.values() for file, sha256 in step.files.items()},
            engines={
                name: EngineRecord(file=steps[name].facts["file"], inputs=spec.inputs, outputs=spec.outputs)
                for name, spec in self.specs.items()
            },
            parity=None,
        )


Builder = Callable[[BuildContext], BackendRecord]
