"""One video of eight frames through `tiny`, stage by stage: every provider beside the same network in eager torch.

All see the same inputs and threads, and take turns, round by round, with the baseline. Outputs are compared before
anything is timed. `providers` says who they are; those of a GPU are compared with eager torch there.

    pytest benchmarks/bench_stages.py --benchmark-only
"""

import numpy as np
import pytest
from providers import BASELINE, COMPILED_STAGES, CPU_PROVIDERS, GPU_PROVIDERS

from diffvqa_rt.metrics.diffvqa.presets import TINY

STAGES = {
    "vae_encoder": "vae_encoder: one video",
    "unet_controller": "unet_controller: one denoising step of one video",
    "denoise": f"denoise: all {TINY.sampler.steps} steps of one video",
    "head": "head: one video",
}
ROUNDS = {"vae_encoder": 5, "unet_controller": 9, "denoise": 3, "head": 7}
# The tests' tolerances, of the outputs' range.
TOLERANCE = 1e-3


def _rows() -> list:
    rows = [("cpu", provider) for provider in (*CPU_PROVIDERS, "pytorch_plain_scan")]
    rows += [("cuda", provider) for provider in GPU_PROVIDERS]
    compiled = {*COMPILED_STAGES, "denoise"}
    return [
        pytest.param(stage, device, provider, marks=[pytest.mark.gpu] if device == "cuda" else [])
        for stage in STAGES
        for device, provider in rows
        # Only the head has a scan.
        if (provider != "torch_compile" or stage in compiled) and (provider != "pytorch_plain_scan" or stage == "head")
    ]


@pytest.mark.timeout(1200)  # the first one waits for all that is built and compiled
@pytest.mark.parametrize(("stage", "device", "provider"), _rows())
def test_stage(benchmark, time_in_turns, providers, stage, device, provider):
    run, baseline = providers.runs(device, provider)[stage], providers.runs(device, BASELINE)[stage]
    expected, actual = baseline(), run()
    assert np.abs(actual - expected).max() < TOLERANCE * np.abs(expected).max()

    benchmark.group = f"{STAGES[stage]}, {TINY.name}, float32" + (", on a GPU" if device == "cuda" else "")
    time_in_turns(run, {} if provider == BASELINE else {BASELINE: baseline}, ROUNDS[stage], is_warm=True)
