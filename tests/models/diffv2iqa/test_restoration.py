"""The restoration beside a plain one in float64: the folded step, the tables, and the states that are kept."""

import dataclasses
import math

import pytest
import torch
from sr3_network import noise_of, random_checkpoint
from torch import Tensor, nn

from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig, RestorerConfig
from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.models.diffv2iqa.restoration import RestorationStep, restore
from diffvqa_rt.models.diffv2iqa.restorer import Restorer
from diffvqa_rt.models.diffv2iqa.sr3 import load_sr3
from diffvqa_rt.sampler import noise_strengths, noise_table

STEPS = 6
SMALL = dataclasses.replace(
    TINY,
    view_size=32,
    sampler=dataclasses.replace(TINY.sampler, train_steps=STEPS, steps=STEPS),
    kept=(1, 3),
    restorer=RestorerConfig(channels=(8, 8, 16, 16), blocks=1, norm_groups=4),
)
CONFIGS = {
    norm: dataclasses.replace(SMALL, restorer=dataclasses.replace(SMALL.restorer, norm=norm))
    for norm in ("batch", "group")
}


@pytest.fixture(params=CONFIGS)
def config(request) -> DiffV2IQAConfig:
    return CONFIGS[request.param]


@pytest.fixture
def restorer(config, tmp_path) -> Restorer:
    """A restorer whose norms have statistics that a wrong fold does not survive."""
    torch.save(random_checkpoint(config.restorer), tmp_path / "gen.pth")
    restorer = Restorer(config.restorer)
    load_sr3(restorer, tmp_path / "gen.pth")
    return restorer.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def index(step: int) -> Tensor:
    return torch.tensor([step])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def alpha_bars(steps: int) -> list[float]:
    """ᾱ_0 = 1 … ᾱ_T of the cosine schedule, β at most 0.999."""
    curve = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
    found = [1.0]
    for t in range(1, steps + 1):
        found.append(found[-1] * (1 - min(1 - curve[t] / curve[t - 1], 0.999)))
    return found


def states_of(config: DiffV2IQAConfig, x: Tensor) -> list[Tensor]:
    """y_T … y_0 by SPEC §2's equations, in float64."""
    checkpoint = random_checkpoint(config.restorer)
    noise = torch.from_numpy(noise_table(config.sampler, (3, 32, 32))).double()
    bars = alpha_bars(STEPS)
    states = [noise[0].expand(len(x), -1, -1, -1)]
    for t in range(STEPS, 0, -1):
        now, before = bars[t], bars[t - 1]
        alpha = now / before
        beta = 1 - alpha
        epsilon = noise_of(checkpoint, config.restorer, x, states[-1], torch.full((len(x),), now**0.5))
        y_0 = ((states[-1] - (1 - now) ** 0.5 * epsilon) / now**0.5).clamp(-1, 1)
        mean = before**0.5 * beta / (1 - now) * y_0 + alpha**0.5 * (1 - before) / (1 - now) * states[-1]
        sigma = (beta * (1 - before) / (1 - now)) ** 0.5
        states.append(mean + sigma * noise[STEPS - t + 1] if t > 1 else mean)
    return states


@torch.inference_mode()
def test_every_step_follows_the_papers_equations(config, restorer, x):
    step = RestorationStep(restorer, config)
    states = states_of(config, x)
    for turn in range(STEPS):
        (y,) = step(states[turn].float(), x, index(turn))
        assert relative_error(y, states[turn + 1]) < 1e-5, f"step {turn}"


@torch.inference_mode()
def test_the_kept_pictures_have_as_many_steps_left_as_the_config_says(config, restorer, x):
    states = states_of(config, x)
    kept = restore(RestorationStep(restorer, config), x, config)
    for y, left in zip(kept, (0, *config.kept), strict=True):
        assert relative_error(y, states[STEPS - left]) < 1e-4
    assert kept.y_0.abs().max() <= 1


@torch.inference_mode()
def test_noise_is_the_same_from_the_table_and_from_the_live_network(config, restorer, x):
    # ε itself: while weights are random, the clamp hides it from the step's own result.
    step = RestorationStep(restorer, config)
    y = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    for turn, bar in enumerate(alpha_bars(STEPS)[:0:-1]):
        gamma = torch.full((2,), bar**0.5)
        expected = noise_of(random_checkpoint(config.restorer), config.restorer, x, y, gamma)
        assert relative_error(restorer(x, y, gamma), expected) < 1e-5
        assert relative_error(step.unet(x, y, step.shifts[turn : turn + 1]), expected) < 1e-5


def test_the_second_norm_of_each_block_and_the_attentions_are_folded(config, restorer):
    step = RestorationStep(restorer, config)
    norms = [module for module in step.unet.modules() if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)]
    blocks, attended = 14, 4
    assert len(norms) == (blocks + 1 if config.restorer.norm == "batch" else 2 * blocks + attended + 1)


def test_a_restorer_in_training_stays_as_it_is(config, restorer, x):
    restorer.train()
    before = {name: tensor.clone() for name, tensor in restorer.state_dict().items()}
    step = RestorationStep(restorer, config)
    assert not step.training and not any(module.training for module in step.modules())
    assert not any(parameter.requires_grad for parameter in step.parameters())
    restore(step, x, config)
    assert restorer.training and all(module.training for module in restorer.modules())
    after = restorer.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    restorer(x, x, torch.tensor([0.5, 0.5])).sum().backward()
    assert all(parameter.grad is not None for parameter in restorer.parameters())


@torch.inference_mode()
def test_the_start_is_noise_whatever_y_is(config, restorer, x):
    step = RestorationStep(restorer, config)
    (from_nothing,), (from_nan,) = (step(torch.full_like(x, value), x, index(0)) for value in (0.0, float("nan")))
    assert torch.equal(from_nothing, from_nan)
    (changed,) = step(x, -x, index(0))
    assert not torch.equal(changed, from_nothing)


@torch.inference_mode()
def test_a_view_does_not_see_the_others(config, restorer, x):
    step = RestorationStep(restorer, config)
    y = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    (pair,) = step(y, x, index(2))
    (changed,) = step(torch.stack([y[0], y[1] + 1]), torch.stack([x[0], -x[1]]), index(2))
    assert torch.equal(pair[0], changed[0]) and not torch.equal(pair[1], changed[1])
    (swapped,) = step(y.flip(0), x.flip(0), index(2))
    torch.testing.assert_close(swapped.flip(0), pair)
    # One noise for all: the same view twice is the same picture twice.
    twice = restore(step, x[:1].expand(2, -1, -1, -1), config)
    assert all(torch.equal(kept[0], kept[1]) for kept in twice)


def test_a_states_noise_is_as_strong_as_the_network_is_told():
    sampler = SMALL.sampler
    assert noise_strengths(sampler) == pytest.approx([1.0] * STEPS)
    assert max(noise_strengths(dataclasses.replace(sampler, variance="beta"))) > 1.5
