"""The metrics by name, each imported when it is asked for."""

import importlib

from diffvqa_rt.metric import Metric

METRICS = ("diffvqa", "diffv2iqa", "aigc_vqa")
"""The names; a metric is `METRIC` in `diffvqa_rt.metrics.NAME.metric`."""

DEFAULT = "diffvqa"


def metric_named(name: str) -> Metric:
    """The metric of that name. Raises ValueError, listing the right names, for any other."""
    if name not in METRICS:
        raise ValueError(f"metric is {name!r}; expected one of {', '.join(METRICS)}")
    metric: Metric = importlib.import_module(f"diffvqa_rt.metrics.{name}.metric").METRIC
    return metric
