"""The simulator of served stages, against queueing theory."""

import math

import numpy as np
import pytest

from diffvqa_rt.capacity.simulation import ServedStage, simulate

ONE_LINE = ServedStage(name="one", resource="core", demand=1, instances=1)
ALL_AT_ONCE = ServedStage(name="all", resource="core", demand=1, instances=math.inf)


def latencies_at(stage: ServedStage, utilisation: float, seconds: np.ndarray) -> np.ndarray:
    """Of Poisson arrivals at one server whose mean service is a second, without the first tenth."""
    arrivals = np.random.default_rng(1).exponential(size=len(seconds)).cumsum() / utilisation
    passage = simulate([stage], {"core": 1.0}, seconds[:, None], arrivals.tolist())
    return passage.latencies[len(seconds) // 10 :]


# The bounds of the three: four standard errors or so of a mean over 40,000 videos whose waits follow each other.
@pytest.mark.parametrize("utilisation", [0.3, 0.7])
def test_a_line_with_equal_videos_waits_as_pollaczek_and_khinchine_say(utilisation):
    latencies = latencies_at(ONE_LINE, utilisation, np.ones(40_000))
    assert latencies.mean() - 1 == pytest.approx(utilisation / (2 * (1 - utilisation)), rel=0.06)


def test_a_line_with_exponential_videos_has_an_exponential_latency():
    seconds = np.random.default_rng(2).exponential(size=40_000)
    latencies = latencies_at(ONE_LINE, 0.6, seconds)
    assert latencies.mean() == pytest.approx(1 / (1 - 0.6), rel=0.06)
    assert np.quantile(latencies, 0.99) == pytest.approx(math.log(100) / (1 - 0.6), rel=0.1)


@pytest.mark.parametrize("is_exponential", [False, True])
def test_a_shared_resource_is_as_slow_whatever_the_videos_lengths(is_exponential):
    """M/G/1 under processor sharing: the mean latency is that of the mean video, E[S]/(1 − ρ)."""
    seconds = np.random.default_rng(3).exponential(size=40_000) if is_exponential else np.ones(40_000)
    assert latencies_at(ALL_AT_ONCE, 0.6, seconds).mean() == pytest.approx(1 / (1 - 0.6), rel=0.06)


def test_a_resource_is_shared_by_demand_and_work_is_conserved():
    # Two cores: an engine that takes both for a second beside a decoder that takes one. Each runs at 2/3 until the
    # decoder's second is over, at 1.5 s; both began with as much to do.
    engine = ServedStage(name="engine", resource="cores", demand=2, instances=1)
    decoder = ServedStage(name="decoder", resource="cores", demand=1, instances=1)
    seconds = np.array([[0.0, 1.0], [1.0, 0.0]])
    passage = simulate([decoder, engine], {"cores": 2.0}, seconds, [0.0, 0.0])
    assert passage.finished.tolist() == pytest.approx([1.5, 1.5])
    assert passage.used["cores"] == pytest.approx(1.0 * 1 + 1.0 * 2)


def test_a_line_is_first_come_first_served():
    seconds = np.array([[3.0], [1.0], [1.0]])
    passage = simulate([ONE_LINE], {"core": 1.0}, seconds, [0.0, 1.0, 2.0])
    assert passage.finished.tolist() == pytest.approx([3.0, 4.0, 5.0])
