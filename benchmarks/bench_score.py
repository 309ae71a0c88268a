"""A file to its score: decoding, the views and all stages, by every provider on this CPU.

What a user waits for once the engines are open: of a video, and of a metric that scores pictures also of a photograph,
with the five crops that a still has by default, and of a larger video.

    pytest benchmarks/bench_score.py --benchmark-only
"""

import statistics
from pathlib import Path

import pytest
from long_clips import encode_segment
from providers import BACKENDS, BASELINE, CPU_PROVIDERS, network_of

from diffvqa_rt import Scorer, VideoScore
from diffvqa_rt.metrics.registry import DEFAULT, METRICS, metric_named

ROUNDS = 3
DEVICE = "cpu"
# Whose stages `diffvqa plan` knows, which asks for --backend where there are several.
PLANNED_WITH = "onnxruntime"
# Of a score's range.
TOLERANCE = 1e-4
VIDEO, LARGE_VIDEO = "a file of 5 s and 720×480", "a file of 10 s and 1280×720"
PHOTOGRAPH = "a JPEG of 12 megapixels"


def _rows() -> list[tuple[str, str, str]]:
    rows = [(metric, VIDEO, provider) for metric in METRICS for provider in CPU_PROVIDERS]
    pictorial = [metric for metric in METRICS if not metric_named(metric).is_temporal]
    files, providers = (LARGE_VIDEO, PHOTOGRAPH), ("onnxruntime", BASELINE)
    return rows + [(metric, what, provider) for metric in pictorial for what in files for provider in providers]


@pytest.fixture(scope="module")
def files(clip, photograph, tmp_path_factory) -> dict[str, Path]:
    large = tmp_path_factory.mktemp("large") / "large.mp4"
    return {VIDEO: clip, LARGE_VIDEO: encode_segment(clip, large, (1280, 720)), PHOTOGRAPH: photograph}


@pytest.fixture(scope="module")
def eager(providers) -> dict[str, Scorer]:
    """The baseline's scorer, by metric."""
    return {
        metric: Scorer(own.manifest, own.engines(DEVICE, BASELINE), BACKENDS[BASELINE])
        for metric, own in providers.items()
    }


@pytest.fixture(scope="module")
def eager_scores() -> dict[tuple[str, str], VideoScore]:
    """The baseline's scores, by metric and file, as they are made."""
    return {}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("device", [DEVICE])
@pytest.mark.parametrize(("metric", "what", "provider"), _rows())
def test_a_file_to_its_score(
    benchmark, time_in_turns, providers, eager, eager_scores, files, metric, what, device, provider
):
    own, file = providers[metric], files[what]
    scorer = Scorer(own.manifest, own.engines(device, provider), BACKENDS[provider])
    low, high = own.config.score_range
    if (metric, what) not in eager_scores:
        eager_scores[metric, what] = eager[metric].score(file)
    expected = eager_scores[metric, what]
    assert abs(scorer.score(file).score - expected.score) < TOLERANCE * (high - low)

    benchmark.group = f"score: {what}, decoded and scored, {network_of(metric)}, float32"
    results: list[VideoScore] = []
    baselines = {} if provider == BASELINE else {BASELINE: lambda: eager[metric].score(file)}
    time_in_turns(lambda: results.append(scorer.score(file)), baselines, ROUNDS, is_warm=True)
    benchmark.extra_info |= {"backend": BACKENDS[provider], "file_bytes": file.stat().st_size}
    benchmark.extra_info |= {"crops": len(expected.crop_scores), "frames": len(expected.frame_scores)}
    if provider == PLANNED_WITH and what == VIDEO:
        # Of the rounds, since the first call loads what is loaded at first use.
        benchmark.extra_info["stage_seconds"] = {
            stage: round(statistics.median(result.stage_seconds[stage] for result in results), 4)
            for stage in own.metric.stages
        }
        if metric != DEFAULT:
            benchmark.extra_info["metric"] = metric
