"""Many at a time: all stages of `tiny` on one, two and four videos, or on one, five and twenty crops.

Crops have rows where they are not what more videos are: of a picture, and where only a part of the engines sees them.

All rows of a metric are one group; a row's ratio is over eager torch on as many.

    pytest benchmarks/bench_batch.py --benchmark-only
"""

import numpy as np
import pytest
from providers import BASELINE, PRESET, asked, network_of, prepared
from stage_runs import TOLERANCE, chain_of, largest_error

from diffvqa_rt.metrics.registry import METRICS, metric_named

# How many → rounds: one is as many times as long.
VIDEOS = {1: 3, 2: 2, 4: 1}
CROPS = {1: 5, 5: 3, 20: 1}
DEVICE = "cpu"
PROVIDERS = ("onnxruntime", BASELINE)

pytestmark = pytest.mark.timeout(1200)


TEMPORAL = [metric for metric in METRICS if metric_named(metric).is_temporal]


def has_rows_of_crops(name: str) -> bool:
    metric = metric_named(name)
    return not metric.is_temporal or len(metric.inputs(metric.preset_named(PRESET))) > 1


@pytest.mark.parametrize("device", [DEVICE])
@pytest.mark.parametrize("metric", TEMPORAL)
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
@pytest.mark.parametrize("metric", filter(has_rows_of_crops, METRICS))
@pytest.mark.parametrize("crops", CROPS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_crops(benchmark, time_in_turns, providers, clip, photograph, metric, crops, device, provider):
    own = providers[metric]
    what, source = ("video", clip) if own.metric.is_temporal else ("picture", photograph)
    given = prepared(own.metric, own.config, source, asked(own.metric, crops=crops))
    benchmark.group = f"score: all stages, C crops of a {what}, {network_of(metric)}, float32"
    benchmark.extra_info |= {"axis": "C", "value": crops}
    time_row(benchmark, time_in_turns, own, device, provider, given, CROPS[crops])


def time_row(benchmark, time_in_turns, providers, device, provider, given, rounds):
    runs = {
        name: chain_of(providers.inputs.chain, providers.engines(device, name), given) for name in {provider, BASELINE}
    }
    assert largest_error(runs[provider](), runs[BASELINE]()) < TOLERANCE
    baselines = {} if provider == BASELINE else {BASELINE: runs[BASELINE]}
    time_in_turns(runs[provider], baselines, rounds, is_warm=True)
