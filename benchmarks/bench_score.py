"""A file to its score: decoding, the views and all stages, by every provider on this CPU.

What a user waits for once the engines are open: of a video, and of a metric that scores pictures also of a photograph,
with the five crops that a still has by default, and of a larger video. Of a metric that takes a prompt also a clip as
generators make them, with one prompt and with several.

    pytest benchmarks/bench_score.py --benchmark-only
"""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from long_clips import encode_segment
from providers import BACKENDS, BASELINE, CPU_PROVIDERS, PROMPT, asked, network_of

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
GENERATED = "a clip of 16 frames of 512×512"
FEW_PROVIDERS = ("onnxruntime", BASELINE)
PROMPTED = [metric for metric in METRICS if metric_named(metric).prompts]
ONE_PROMPT = "one_prompt"
# Prompts of a video → rounds, and what its row is held to on two cores.
PROMPTS = {1: (5, "at most 0.6 s"), 4: (3, ""), 10: (3, f"at most 1.3 times {ONE_PROMPT}")}


def _rows() -> list[tuple[str, str, str]]:
    rows = [(metric, VIDEO, provider) for metric in METRICS for provider in CPU_PROVIDERS]
    pictorial = [metric for metric in METRICS if not metric_named(metric).is_temporal]
    files = (LARGE_VIDEO, PHOTOGRAPH)
    return rows + [(metric, what, provider) for metric in pictorial for what in files for provider in FEW_PROVIDERS]


@pytest.fixture(scope="module")
def files(clip, photograph, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    large = encode_segment(clip, folder / "large.mp4", (1280, 720))
    generated = encode_segment(clip, folder / "generated.mp4", (512, 512), frames=16)
    return {VIDEO: clip, LARGE_VIDEO: large, PHOTOGRAPH: photograph, GENERATED: generated}


@pytest.fixture(scope="module")
def eager(providers) -> dict[str, Scorer]:
    """The baseline's scorer, by metric."""
    return {metric: own.scorer(DEVICE, BASELINE) for metric, own in providers.items()}


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
    scorer, prompt = own.scorer(device, provider), asked(own.metric).prompt
    low, high = own.config.score_range
    if (metric, what) not in eager_scores:
        eager_scores[metric, what] = eager[metric].score(file, prompt=prompt)
    expected = eager_scores[metric, what]
    assert abs(scorer.score(file, prompt=prompt).score - expected.score) < TOLERANCE * (high - low)

    benchmark.group = f"score: {what}, decoded and scored, {network_of(metric)}, float32"
    results: list[VideoScore] = []
    baselines = {} if provider == BASELINE else {BASELINE: lambda: eager[metric].score(file, prompt=prompt)}
    time_in_turns(lambda: results.append(scorer.score(file, prompt=prompt)), baselines, ROUNDS, is_warm=True)
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


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("device", [DEVICE])
@pytest.mark.parametrize("metric", PROMPTED)
@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("provider", FEW_PROVIDERS)
def test_prompts_of_a_video(benchmark, time_in_turns, providers, eager, files, metric, prompts, device, provider):
    """The video is decoded and seen once, whatever the number of its prompts."""
    own = providers[metric]
    low, high = own.config.score_range

    def scoring(scorer: Scorer, count: int) -> Callable[[], list[VideoScore]]:
        texts = [PROMPT, *(f"{PROMPT} at {hour} o'clock" for hour in range(1, count))]
        return lambda: list(scorer.score_many([files[GENERATED]], prompts=[texts]))

    scorer = own.scorer(device, provider)
    run, baseline = scoring(scorer, prompts), scoring(eager[metric], prompts)
    errors = [abs(ours.score - theirs.score) for ours, theirs in zip(run(), baseline(), strict=True)]
    assert len(errors) == prompts and max(errors) < TOLERANCE * (high - low)

    rounds, bar = PROMPTS[prompts]
    benchmark.group = f"score: {GENERATED} with P prompts, decoded and scored, {network_of(metric)}, float32"
    benchmark.extra_info |= {"axis": "P", "value": prompts}
    baselines = {}
    if provider != BASELINE:
        benchmark.extra_info |= {"bar": bar} if bar else {}
        baselines = {BASELINE: baseline} | ({ONE_PROMPT: scoring(scorer, 1)} if prompts > 1 else {})
    time_in_turns(run, baselines, rounds, is_warm=True)
