"""Many at a time: all stages of `tiny` on one, two and four videos; of an image metric on one to twenty crops.

All rows of a metric are one group; a row's ratio is over eager torch on as many.

    pytest benchmarks/bench_batch.py --benchmark-only
"""

import numpy as np
import pytest
from providers import BASELINE, network_of, prepared
from stage_runs import TOLERANCE, chain_of, largest_error

from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.registry import METRICS, metric_named

# How many → rounds: one is as many times as long.
VIDEOS = {1: 3, 2: 2, 4: 1}
CROPS = {1: 5, 5: 3, 20: 1}
DEVICE = "cpu"
PROVIDERS = ("onnxruntime", BASELINE)

pytestmark = pytest.mark.timeout(1200)


def metrics(*, is_temporal: bool) -> list[str]:
    return [metric for metric in METRICS if metric_named(metric).is_temporal == is_temporal]


@pytest.mark.parametrize("device", [DEVICE])
@pytest.mark.parametrize("metric", metrics(is_temporal=True))
@pytest.mark.parametrize("videos", VIDEOS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_videos_at_a_time(benchmark, time_in_turns, providers, metric, videos, device, provider):
    given = {name: np.repeat(array, videos, axis=0) for name, array in providers[metric].inputs.given.items()}
    benchmark.group = f"score: all stages, V videos at a time, {network_of(metric)}, float32"
    benchmark.extra_info |= {"axis": "V", "value": videos}
    time_row(benchmark, time_in_turns, providers[metric], device, provider, given, VIDEOS[videos])
    if benchmark.enabled:
        benchmark.extra_info["videos_per_second"] = round(videos / benchmark.stats.stats.median, 3)


@pytest.mark.parametrize("device", [DEVICE])
@pytest.mark.parametrize("metric", metrics(is_temporal=False))
@pytest.mark.parametrize("crops", CROPS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_crops(benchmark, time_in_turns, providers, photograph, metric, crops, device, provider):
    own = providers[metric]
    given = prepared(own.metric, own.config, photograph, Request(crops=crops))
    benchmark.group = f"score: all stages, C crops of a picture, {network_of(metric)}, float32"
    benchmark.extra_info |= {"axis": "C", "value": crops}
    time_row(benchmark, time_in_turns, own, device, provider, given, CROPS[crops])


def time_row(benchmark, time_in_turns, providers, device, provider, given, rounds):
    runs = {
        name: chain_of(providers.inputs.chain, providers.engines(device, name), given) for name in {provider, BASELINE}
    }
    assert largest_error(runs[provider](), runs[BASELINE]()) < TOLERANCE
    baselines = {} if provider == BASELINE else {BASELINE: runs[BASELINE]}
    time_in_turns(runs[provider], baselines, rounds, is_warm=True)
