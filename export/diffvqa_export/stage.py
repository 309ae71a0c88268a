"""What every export module says of its engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.specs import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """The largest relative error (‖Δ‖ / ‖reference‖) that an engine's outputs may have, and why that much."""

    relative: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportStage:
    """`example_inputs` gives the tensors that the exporter traces with, in the spec's order."""

    name: str
    tolerances: Mapping[Precision, Tolerance]
    example_inputs: Callable[[DiffVQAConfig], tuple[Tensor, ...]]


# The exporter takes an axis of size 1 for a constant, so no example has one where the spec is dynamic.
EXAMPLE_VIDEOS = 2


def random_frames(shape: tuple[int, ...], count: int) -> Tensor:
    return torch.rand(EXAMPLE_VIDEOS, count, *shape) * 2 - 1
