"""What export knows of each metric, by the metric's name, imported when it is asked for. Nothing here imports torch."""

import importlib
from typing import TYPE_CHECKING

from diffvqa_rt.metrics.registry import DEFAULT, metric_named

if TYPE_CHECKING:
    from diffvqa_export.metric_export import MetricExport


def metric_export(metric: str) -> "MetricExport":
    """The metric's declaration, `EXPORT` in `diffvqa_export.NAME.stages`. Raises ValueError where there is none."""
    export: MetricExport = importlib.import_module(f"diffvqa_export.{metric_named(metric).name}.stages").EXPORT
    return export


def network_label(metric: str, preset: str) -> str:
    """A name for files of a network: METRIC-PRESET, and the preset's alone for the default metric."""
    return preset if metric == DEFAULT else f"{metric}-{preset}"
