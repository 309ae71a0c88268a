"""A stage's part in an export: what a metric declares of each engine, and the job of writing one file from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from diffvqa_kernels.selective_scan.onnx import ScanRuntime
from torch import Tensor, nn

from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.specs import EngineSpec, Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """The largest relative error (‖Δ‖ / ‖reference‖) that an engine's outputs may have, and why that much."""

    relative: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Folds:
    """Tables that take the place of weights in an engine.

    Attributes:
        replaced: patterns of parameters that no engine holds, by full path.
        tables: module → the tensors that it holds in their place, which are no parameters.
        convert_tables: puts a module's tables into a dtype.
    """

    replaced: tuple[str, ...]
    tables: Callable[[Any], list[Tensor]]
    convert_tables: Callable[[Any, torch.dtype], None]

    def has_replaced(self, parameter: str) -> bool:
        return any(fnmatchcase(parameter, pattern) for pattern in self.replaced)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportStage:
    """A metric's declaration of one engine.

    Attributes:
        name: the engine's.
        tolerances: how far its outputs may be from float32 torch's.
        example_inputs: config → the tensors that the exporter traces with, in the spec's order.
        error_floor: errors are relative to outputs of at least this size (root mean square): an output of one number
            may be near 0.
        kept_in_float32: pattern of modules, by full path → why half precision is not for them.
        folds: what tables replace, if anything.
        has_scan: whether the selective scan is in it.
    """

    name: str
    tolerances: Mapping[Precision, Tolerance]
    example_inputs: Callable[[Any], tuple[Tensor, ...]]
    error_floor: float = 0.0
    kept_in_float32: Mapping[str, str] = field(default_factory=dict)
    folds: Folds | None = None
    has_scan: bool = False

    def keeps_float32(self, module: str) -> bool:
        """True where the module at a full path stays in float32 in an engine of half precision."""
        return any(fnmatchcase(module, pattern) for pattern in self.kept_in_float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportJob:
    """One file to be made from one stage's module.

    Attributes:
        stage: the declaration.
        module: the network's part, in the precision and on the device of the engine.
        config: the network's.
        spec: the engine's border, which the file must keep.
        path: the file.
        provenance: the line that the file carries, `Manifest.provenance`.
        runtime: whose form of the selective scan an ONNX file has (`attach_functions`).

    Raises:
        EngineBuildError: a module is in training mode; its engine would give plausible, wrong scores.
    """

    stage: ExportStage
    module: nn.Module
    config: Any
    spec: EngineSpec
    path: Path
    provenance: str
    runtime: ScanRuntime = "any"

    def __post_init__(self) -> None:
        training = next((path for path, module in self.module.named_modules() if module.training), None)
        if training is not None:
            where = training or "the module itself"
            raise EngineBuildError(f"{self.stage.name}: {where} is in training mode; call eval() before the export")


# The exporter takes an axis of size 1 for a constant, so no example has one where the spec is dynamic.
EXAMPLE_VIDEOS = 2


def random_frames(shape: tuple[int, ...], count: int) -> Tensor:
    """Uniform values in [−1, 1], [EXAMPLE_VIDEOS, count, *shape] float32."""
    return torch.rand(EXAMPLE_VIDEOS, count, *shape) * 2 - 1
