"""Our own metrics on Triton server's endpoint: how long each stage takes, which scores are given, what fails and why.

Importable only in the processes of the Python backend, as `python_backend` is.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import triton_python_backend_utils as pb_utils

from diffvqa_rt.metrics.registry import DEFAULT

STAGE_BOUNDS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOTAL = "total"

FailureReason = Literal["refused", "unavailable", "cancelled", "fault"]
"""The video or the request is at fault; the server is stopping, or a model is gone; nobody waits for the answer any
more, which is no fault; the server is at fault."""


class Failures:
    """Requests that a model has answered with an error. Triton server counts those of Python models as successes."""

    def __init__(self, model_instance: str) -> None:
        """`model_instance` becomes a label: a metric that two processes share goes with the first of them to end
        (triton-inference-server/server#8663).
        """
        self._family = pb_utils.MetricFamily(
            name="diffvqa_failures_total", description="Requests that failed", kind=pb_utils.MetricFamily.COUNTER
        )
        self._counters = {
            reason: self._family.Metric(labels={"reason": reason, "model_instance": model_instance})
            for reason in get_args(FailureReason)
        }

    def count(self, reason: FailureReason) -> None:
        self._counters[reason].increment(1)


class ScoreMetrics:
    """The metrics of every video that was scored by a chain; scores of two chains are no one distribution."""

    def __init__(self, chain: str, stages: Sequence[str], score_range: tuple[float, float]) -> None:
        low, high = score_range
        # Dashboards know the first metric's without this label.
        labels = {} if chain == DEFAULT else {"metric": chain}
        histogram = pb_utils.MetricFamily.HISTOGRAM
        description = "Seconds that a stage of scoring a video took, the wait for it included"
        seconds = pb_utils.MetricFamily(name="diffvqa_stage_seconds", description=description, kind=histogram)
        scores = pb_utils.MetricFamily(name="diffvqa_score", description="Scores given", kind=histogram)
        self._families = seconds, scores  # a metric lives as long as its family
        self._stages = {
            stage: seconds.Metric(labels={"stage": stage, **labels}, buckets=list(STAGE_BOUNDS_SECONDS))
            for stage in (*stages, TOTAL)
        }
        tenths = [low + (high - low) * tenth / 10 for tenth in range(1, 10)]
        self._scores = scores.Metric(labels=labels, buckets=tenths)

    def observe(self, stage_seconds: Mapping[str, float], score: float) -> None:
        for stage, seconds in {**stage_seconds, TOTAL: sum(stage_seconds.values())}.items():
            self._stages[stage].observe(seconds)
        self._scores.observe(score)
