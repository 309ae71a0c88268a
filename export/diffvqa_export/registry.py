"""The metrics that can be exported, by name. Nothing here imports torch."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffvqa_export.metric_export import MetricExport

DEFAULT_METRIC = "diffvqa"

METRICS = {DEFAULT_METRIC: "diffvqa_export.diffvqa.stages"}
"""The module of each metric whose `EXPORT` is its `MetricExport`; imported where the metric is asked for."""


def metric_export(metric: str) -> "MetricExport":
    """The metric's declaration. Raises ValueError, listing the right names, for a metric that there is not."""
    _refuse_unknown(metric)
    export: MetricExport = importlib.import_module(METRICS[metric]).EXPORT
    return export


def presets_of(metric: str) -> Mapping[str, Any]:
    """The metric's named networks. Raises ValueError as `metric_export`."""
    _refuse_unknown(metric)
    presets: Mapping[str, Any] = importlib.import_module(f"diffvqa_rt.metrics.{metric}.presets").PRESETS
    return presets


def preset_named(metric: str, name: str) -> Any:
    """The metric's preset of that name. Raises ValueError, listing the right names, for any other."""
    presets = presets_of(metric)
    if name not in presets:
        raise ValueError(f"preset is {name!r}; expected one of {', '.join(presets)}")
    return presets[name]


def network_label(metric: str, preset: str) -> str:
    """A name for files of a network: METRIC-PRESET, and the preset's alone for the default metric."""
    return preset if metric == DEFAULT_METRIC else f"{metric}-{preset}"


def _refuse_unknown(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}")
