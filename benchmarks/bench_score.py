"""A file to its score: decoding, the two views and the three stages, by every provider on this CPU.

What a user waits for once the engines are open.

    pytest benchmarks/bench_score.py --benchmark-only
"""

import statistics

import pytest
from providers import BACKENDS, BASELINE, CPU_PROVIDERS

from diffvqa_rt import Scorer, VideoScore
from diffvqa_rt.metrics.diffvqa.metric import METRIC

ROUNDS = 3
DEVICE = "cpu"
# Whose stages `diffvqa plan` knows, which asks for --backend where there are several.
PLANNED_WITH = "onnxruntime"
# Of a score's range.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def eager(providers) -> Scorer:
    return Scorer(providers.manifest, providers.engines(DEVICE, BASELINE), BACKENDS[BASELINE])


@pytest.fixture(scope="module")
def expected(eager, clip) -> float:
    return eager.score(clip).score


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("device", [DEVICE])
@pytest.mark.parametrize("provider", CPU_PROVIDERS)
def test_a_file_to_its_score(benchmark, time_in_turns, providers, eager, expected, clip, device, provider):
    scorer = Scorer(providers.manifest, providers.engines(device, provider), BACKENDS[provider])
    low, high = providers.manifest.config.score_range
    assert abs(scorer.score(clip).score - expected) < TOLERANCE * (high - low)

    benchmark.group = "score: a file of 5 s and 720×480, decoded and scored, tiny, float32"
    results: list[VideoScore] = []
    baselines = {} if provider == BASELINE else {BASELINE: lambda: eager.score(clip)}
    time_in_turns(lambda: results.append(scorer.score(clip)), baselines, ROUNDS, is_warm=True)
    benchmark.extra_info["backend"] = BACKENDS[provider]
    if provider == PLANNED_WITH:
        # Of the rounds, since the first call loads what is loaded at first use.
        benchmark.extra_info["stage_seconds"] = {
            stage: round(statistics.median(result.stage_seconds[stage] for result in results), 4)
            for stage in METRIC.stages
        }
