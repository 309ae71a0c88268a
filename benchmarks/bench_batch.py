"""Videos per second: the three stages of `tiny` on one video, and on two and four at a time.

All rows are one group; a row's ratio is over eager torch on as many videos.

    pytest benchmarks/bench_batch.py --benchmark-only
"""

import numpy as np
import pytest
from providers import BASELINE

# V → rounds: one is as many videos long.
ROUNDS = {1: 3, 2: 2, 4: 1}
DEVICE = "cpu"
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def expected(providers) -> np.ndarray:
    """The scores of one video, and so of each."""
    return providers.runs(DEVICE, BASELINE)["score"]()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("device", [DEVICE])
@pytest.mark.parametrize("videos", ROUNDS)
@pytest.mark.parametrize("provider", ["onnxruntime", BASELINE])
def test_videos_at_a_time(benchmark, time_in_turns, providers, expected, videos, device, provider):
    inputs = providers.inputs.of_videos(videos)
    run = inputs.runs(providers.engines(device, provider))["score"]
    baseline = inputs.runs(providers.engines(device, BASELINE))["score"]
    assert np.abs(run() - expected).max() < TOLERANCE * np.abs(expected).max()

    benchmark.group = "score: the three stages, V videos at a time, tiny, float32"
    benchmark.extra_info |= {"axis": "V", "value": videos}
    time_in_turns(run, {} if provider == BASELINE else {BASELINE: baseline}, ROUNDS[videos], is_warm=True)
    if benchmark.enabled:
        benchmark.extra_info["videos_per_second"] = round(videos / benchmark.stats.stats.median, 3)
