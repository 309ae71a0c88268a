"""Each metric's network in torch, by the metric's name, imported when it is asked for."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricModels:
    """`network` makes a metric's network of its config; `stages` cuts one at the engines' borders, by engine.

    The stages are in evaluation mode: tensors in and out, as the metric's engines have them.
    """

    network: Callable[[Any], nn.Module]
    stages: Callable[[Any], dict[str, nn.Module]]


def models_of(metric: str) -> MetricModels:
    """The network of a metric of `diffvqa_rt.metrics.registry`: `MODELS` in `diffvqa_rt.models.NAME.stages`."""
    models: MetricModels = importlib.import_module(f"diffvqa_rt.models.{metric}.stages").MODELS
    return models
