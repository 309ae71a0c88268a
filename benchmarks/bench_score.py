"""Scoring one video, stage by stage and whole: the engines beside the same network in eager torch, twice.

`pytorch` has all that this project gives it: the folds, and the scan in numba. `pytorch_plain_scan` has the folds, and
the scan in plain torch operators (chunked, three times as fast as Mamba's own loop): what runs without numba.
All see the same inputs and threads and take turns, round by round. Outputs are compared before anything is timed.

    pytest benchmarks/bench_score.py --benchmark-only
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diffvqa_kernels.selective_scan import backends

from diffvqa_rt import Scorer
from diffvqa_rt.engines import available_cpus, open_engines
from diffvqa_rt.scoring import denoise, play
from diffvqa_rt.specs import FEATURES
from diffvqa_rt.video import make_views, sample_frames

ROUNDS = 7
PROVIDERS = {"onnxruntime": "onnx", "aot_inductor": "aot-inductor", "pytorch": "torch", "pytorch_plain_scan": "torch"}
BASELINE = "pytorch"
BASELINES = (BASELINE, "pytorch_plain_scan")
# The tests' tolerances, of the outputs' range.
TOLERANCE = 1e-3

Run = Callable[[], np.ndarray]


class PlainScan:
    """A torch engine whose scan takes the way of a machine without numba."""

    max_videos = None

    def __init__(self, engine) -> None:
        self.spec, self._engine = engine.spec, engine

    def __call__(self, inputs, outputs=None):
        automatic = backends._automatic
        backends._automatic = lambda *_: "chunked"
        try:
            return self._engine(inputs, outputs)
        finally:
            backends._automatic = automatic


@pytest.fixture(scope="module")
def runs(engines_folder: Path, clip: Path) -> dict[str, dict[str, Run]]:
    """stage → provider → a call that runs it and returns its first output."""
    opened = {name: open_engines(engines_folder, backend) for name, backend in PROVIDERS.items()}
    config = opened[BASELINE][0].config
    frames = make_views(sample_frames(clip, config.frames).frames, config.view_size)
    steps = config.sampler.steps
    z0 = opened[BASELINE][1]["vae_encoder"]({"frames": frames})["z0"]
    last = denoise(opened[BASELINE][1]["unet_controller"], z0, steps)
    head_inputs = {"z0_hat": last["z_next"], **{name: last[name] for name in FEATURES}, "frames": frames}

    def stages(engines) -> dict[str, Run]:
        return {
            "vae_encoder": lambda: engines["vae_encoder"]({"frames": frames})["z0"],
            "denoise": lambda: denoise(engines["unet_controller"], z0, steps)["z_next"],
            "head": lambda: engines["head"](head_inputs)["frame_scores"],
            "score": lambda: play(engines, frames, steps)["frame_scores"],
        }

    by_provider = {name: stages(engines) for name, (_, engines) in opened.items()}
    plain = {name: PlainScan(engine) for name, engine in opened[BASELINE][1].items()}
    by_provider["pytorch_plain_scan"] = stages(plain)
    return {stage: {name: by_provider[name][stage] for name in PROVIDERS} for stage in by_provider[BASELINE]}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stage", ["vae_encoder", "denoise", "head", "score"])
def test_stage(benchmark, time_in_turns, runs, stage, provider):
    ours, baselines = runs[stage][provider], {name: runs[stage][name] for name in BASELINES if name != provider}
    expected, actual = runs[stage][BASELINE](), ours()
    assert np.abs(actual - expected).max() < TOLERANCE * np.abs(expected).max()

    benchmark.group = f"{stage}, tiny, one video of 8 frames"
    benchmark.extra_info["threads"] = available_cpus()
    time_in_turns(ours, baselines, ROUNDS)


def test_a_file_to_its_score(benchmark, engines_folder, clip):
    """What a user waits for after loading: decode, views, engines."""
    benchmark.group = "file to score, tiny, 5 s of 720×480"
    scorer = Scorer.open(engines_folder)
    result = benchmark.pedantic(scorer.score, args=(clip,), rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info["stage_seconds"] = {stage: round(s, 4) for stage, s in result.stage_seconds.items()}


def test_opening_an_engine_folder(benchmark, engines_folder):
    """Read, verify, create the sessions."""
    benchmark.group = "open an engine folder, tiny"
    benchmark.pedantic(Scorer.open, args=(engines_folder,), rounds=ROUNDS, warmup_rounds=1)
