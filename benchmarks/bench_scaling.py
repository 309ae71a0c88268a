"""How the time grows: with the number N of frames, the number K of steps and the side S of the views.

N and K are of the denoising step, nine tenths of the arithmetic; S is of the VAE encoder, which another side takes a
few seconds to export, where the step takes a quarter of a minute. `bench_batch` has the number V of videos,
`bench_decode` a file's length. All rows of an axis are one group, and `scaling.fitted_exponent` says how steep it is: 1
is linear, and in S, where four times the pixels are twice the side, 2 is linear in the pixels and 4 what attention
would be alone.

    pytest benchmarks/bench_scaling.py --benchmark-only
"""

import dataclasses

import numpy as np
import pytest
from providers import BASELINE, exported_beside_torch

from diffvqa_rt.chain import play
from diffvqa_rt.metrics.diffvqa.config import VIEWS
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY

ROUNDS = 5
FRAMES = (1, 4, 16)
STEPS = (1, 3, 10)
SIDES = (64, TINY.view_size, 320)
# For steps and sides: enough to keep two cores at work, a quarter of a video's.
FEW_FRAMES = 2
PROVIDERS = ("onnxruntime", BASELINE)
STEP, ENCODER = "unet_controller", "vae_encoder"
TOLERANCE = 1e-3

pytestmark = pytest.mark.timeout(1200)


def latents(config, frames):
    """z and z0 of one video's frames, both views: [1, 2 · frames, C, h, w]."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 1, len(VIEWS) * frames, *config.latent_shape)).astype(np.float32)


def time_row(benchmark, time_in_turns, provider, axis, value, what, runs):
    """One row of an axis; `runs` has a call for each provider that returns what is compared."""
    expected, actual = runs[BASELINE](), runs[provider]()
    assert np.abs(actual - expected).max() < TOLERANCE * np.abs(expected).max()
    benchmark.group = f"scaling: {what}, tiny, float32"
    benchmark.extra_info |= {"axis": axis, "value": value}
    time_in_turns(runs[provider], {} if provider == BASELINE else {BASELINE: runs[BASELINE]}, ROUNDS, is_warm=True)


def step_runs(engines, config, frames):
    z, z0 = latents(config, frames)
    inputs = {"z": z, "z0": z0, "step": np.array([config.sampler.steps // 2])}
    return {name: lambda engine=engine: engine(inputs)["z_next"] for name, engine in engines.items()}


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_frames(benchmark, time_in_turns, providers, device, provider, frames):
    engines = {name: providers.engines(device, name)[STEP] for name in PROVIDERS}
    what = "one denoising step of N frames"
    time_row(benchmark, time_in_turns, provider, "N", frames, what, step_runs(engines, TINY, frames))


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_steps(benchmark, time_in_turns, providers, device, provider, steps):
    _, z0 = latents(TINY, FEW_FRAMES)
    engines = {name: providers.engines(device, name)[STEP] for name in PROVIDERS}
    config = dataclasses.replace(TINY, sampler=dataclasses.replace(TINY.sampler, steps=steps))
    loop = METRIC.chain(config)[1:2]
    runs = {
        name: lambda engine=engine: play(loop, {STEP: engine}, {"z0": z0})["z0_hat"] for name, engine in engines.items()
    }
    time_row(benchmark, time_in_turns, provider, "K", steps, f"K denoising steps of {FEW_FRAMES} frames", runs)


@pytest.fixture(scope="module")
def encoders_by_side(tmp_path_factory):
    """The engines of the sides that no other benchmark has engines of."""
    configs = {side: dataclasses.replace(TINY, view_size=side) for side in SIDES if side != TINY.view_size}
    return {
        side: exported_beside_torch(config, ENCODER, tmp_path_factory.mktemp("side"))
        for side, config in configs.items()
    }


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_sides(benchmark, time_in_turns, providers, encoders_by_side, device, provider, side):
    engines = encoders_by_side.get(side) or {name: providers.engines(device, name)[ENCODER] for name in PROVIDERS}
    rng = np.random.default_rng(0)
    frames = rng.uniform(-1, 1, (1, len(VIEWS) * FEW_FRAMES, 3, side, side)).astype(np.float32)
    runs = {name: lambda engine=engine: engine({"frames": frames})["z0"] for name, engine in engines.items()}
    what = f"vae_encoder on {FEW_FRAMES} frames with views of S×S"
    time_row(benchmark, time_in_turns, provider, "S", side, what, runs)
