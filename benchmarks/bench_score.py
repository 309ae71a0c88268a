"""A file to its score: decoding, the two views and the three stages.

What a user waits for once the engines are open.

    pytest benchmarks/bench_score.py --benchmark-only
"""

import statistics

import pytest
from providers import BASELINE

from diffvqa_rt import Scorer, VideoScore
from diffvqa_rt.results import STAGES

ROUNDS = 3
BACKENDS = {"onnxruntime": "onnx", BASELINE: "torch"}
# Of a score's range.
TOLERANCE = 1e-4


@pytest.mark.parametrize("provider", BACKENDS)
def test_a_file_to_its_score(benchmark, time_in_turns, engines_folder, clip, provider):
    scorers = {name: Scorer.open(engines_folder, backend=backend) for name, backend in BACKENDS.items()}
    first = scorers[provider].score(clip)
    low, high = scorers[provider].manifest.config.score_range
    assert abs(first.score - scorers[BASELINE].score(clip).score) < TOLERANCE * (high - low)

    benchmark.group = "score: a file of 5 s and 720×480, decoded and scored, tiny, float32"
    results: list[VideoScore] = []
    baselines = {} if provider == BASELINE else {BASELINE: lambda: scorers[BASELINE].score(clip)}
    time_in_turns(lambda: results.append(scorers[provider].score(clip)), baselines, ROUNDS, is_warm=True)
    # What `diffvqa plan` reads: of the rounds, since the first call loads what is loaded at first use.
    benchmark.extra_info["backend"] = BACKENDS[provider]
    benchmark.extra_info["stage_seconds"] = {
        stage: round(statistics.median(result.stage_seconds[stage] for result in results), 4) for stage in STAGES
    }
