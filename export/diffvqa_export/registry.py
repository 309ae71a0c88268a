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


def network_label(metric: str, network: str) -> str:
    """A name for files of a network: METRIC-NETWORK, and the network's alone for the default metric.

    `network` is a preset's name or `Metric.label`, whose "tiny, 1 step" becomes tiny-1-step.
    """
    name = network.replace(",", "").replace(" ", "-")
    return name if metric == DEFAULT else f"{metric}-{name}"
