"""The Prometheus series that a server has, ours and Triton server's."""

import runpy
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from diffvqa_rt.metrics.registry import METRICS, metric_named
from diffvqa_rt.serving.models import Form, served_models

ROOT = Path(__file__).parents[1]

_NETWORKS = [(metric, metric.presets["tiny"]) for metric in map(metric_named, METRICS)]
MODELS = {
    model for metric, config in _NETWORKS for form in get_args(Form) for model in served_models(metric, config, form)
}
ENSEMBLES = {chain for metric, config in _NETWORKS for chain in metric.chains(config)}


def our_series() -> dict[str, dict[str, set[str]]]:
    """The series that come of our own metrics, and the values of each one's labels."""
    series: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    class Family:
        """Stands in for the `MetricFamily` of Triton server's Python backend."""

        COUNTER = ("",)
        HISTOGRAM = ("_bucket", "_sum", "_count")

        def __init__(self, *, name, description, kind):
            self._names = [name + suffix for suffix in kind]
            self.Metric = self._add

        def _add(self, *, labels, buckets=()):
            for known in map(series.__getitem__, self._names):
                for label, value in labels.items():
                    known[label].add(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace(MetricFamily=Family))
        metrics = runpy.run_path(str(ROOT / "diffvqa_rt" / "serving" / "metrics.py"))
        for model in MODELS:
            metrics["Failures"](f"{model}_0_0")
        for metric, config in _NETWORKS:
            for chain in metric.chains(config):
                metrics["ScoreMetrics"](chain, metric.stages, config.score_range)
    return series


OURS = our_series()

TRITONS = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_queue_duration_us",
    "nv_inference_pending_request_count",
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_cpu_utilization",
    "nv_cpu_memory_used_bytes",
}
