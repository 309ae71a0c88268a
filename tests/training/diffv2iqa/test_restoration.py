"""Restoration pretraining: eq. (6), which way round a pair goes, the start, and what is measured."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from restoring_network import SMALLEST, save_stills
from torch import nn

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.models.diffv2iqa.restorer import Restorer
from diffvqa_rt.sampler import alphas_cumprod
from diffvqa_rt.training.diffv2iqa.pairs import PairBatches, pairs_from
from diffvqa_rt.training.diffv2iqa.restoration import RestorationObjective, noise_levels, start_as_copy
from diffvqa_rt.training.diffv2iqa.restoration_report import noise_errors, report_on, restored_psnr
from diffvqa_rt.training.diffv2iqa.start import check_side, network_to_restore_with
from diffvqa_rt.training.loop import FitConfig, fit

SAMPLER = SMALLEST.sampler
STEPS = SAMPLER.steps


class Asked(nn.Module):
    """In a restorer's place: notes what it is asked, and answers zero."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.questions = []

    def forward(self, x, y, gamma):
        self.questions.append((x, y, gamma))
        return torch.zeros_like(y) + 0 * self.unused


def pair(count=4, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, reference = (torch.rand(count, 3, side, side, generator=generator) * 2 - 1 for _ in range(2))
    return {"x": x, "reference": reference}


def test_the_loss_is_equation_6():
    restorer = Restorer(SMALLEST.restorer).eval()
    given = pair()
    torch.manual_seed(1)
    loss = RestorationObjective(restorer, SAMPLER)(**given)["loss"]
    torch.manual_seed(1)
    t = torch.randint(1, STEPS + 1, (4,))
    levels = torch.tensor([1.0, *(math.sqrt(value) for value in alphas_cumprod(SAMPLER))])
    gamma = levels[t] + (levels[t - 1] - levels[t]) * torch.rand(4)
    noise = torch.randn(4, 3, 16, 16)
    total = 0.0
    for i in range(4):
        y = gamma[i] * given["reference"][i] + math.sqrt(1 - gamma[i] ** 2) * noise[i]
        predicted = restorer(given["x"][i][None], y[None], gamma[i][None])[0]
        total += (predicted - noise[i]).square().mean().item() / 4
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_the_condition_is_the_distorted_picture_and_the_target_the_reference():
    """D11: with hardly any noise, y is the reference."""
    asked = Asked()
    objective = RestorationObjective(asked, SAMPLER)
    objective.levels.fill_(1 - 1e-7)
    given = pair()
    objective(**given)
    [(x, y, _)] = asked.questions
    assert torch.equal(x, given["x"])
    torch.testing.assert_close(y, given["reference"], rtol=0, atol=5e-3)


def test_each_picture_has_a_noise_level_of_its_own_between_two_steps():
    """D10; between γ_t and γ_{t−1}, all t as often, and all levels between them (SR3)."""
    asked = Asked()
    objective = RestorationObjective(asked, SAMPLER)
    torch.manual_seed(0)
    objective(**pair(count=8000, side=2))
    [(_, _, gamma)] = asked.questions
    levels = noise_levels(SAMPLER)
    assert levels[0] == 1 and (levels.diff() < 0).all() and len(levels) == STEPS + 1
    for t in range(1, STEPS + 1):
        inside = gamma[(gamma >= levels[t]) & (gamma < levels[t - 1])]
        assert len(inside) == pytest.approx(8000 / STEPS, rel=0.1)
        assert inside.mean() == pytest.approx(float(levels[t] + levels[t - 1]) / 2, abs=0.02)
    assert levels[STEPS] <= gamma.min() and gamma.max() <= 1


def test_all_of_the_restorer_learns_and_nothing_else(tmp_path):
    network = network_to_restore_with("tiny", None, 0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fit(
        RestorationObjective(network.restorer, TINY.sampler),
        PairBatches(pairs_from(save_stills(tmp_path, 2, 48)), batch=4, per_pair=2, side=16, seed=0),
        # The first step leaves what stands behind a zero as it was.
        FitConfig(steps=3, learning_rate=1e-3, weight_decay=0.0),
        tmp_path / "run",
        describes={},
        accelerator=Accelerator(cpu=True),
    )
    after = network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    restorers = {name for name in before if name.startswith("restorer.")}
    # The convolutions before a BatchNorm have a bias that it takes away again.
    assert moved <= restorers and len(moved) > 0.9 * len(restorers)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_restorer_that_starts_as_a_copy_gives_y(norm):
    torch.manual_seed(0)
    restorer = Restorer(replace(TINY.restorer, norm=norm))
    start_as_copy(restorer)
    y, gamma = torch.randn(8, 3, 32, 32), torch.rand(8)
    given, other = (restorer(pair(8, 32, seed)["x"], y, gamma) for seed in range(2))
    assert (given - y).square().mean() < 0.05
    assert torch.equal(given, other)


def test_the_error_of_the_noise_is_one_for_zero_and_none_for_the_truth():
    assert noise_errors(Asked(), SAMPLER, pair(side=32)) == pytest.approx([1.0] * STEPS, abs=0.05)

    class Knowing(Asked):
        def forward(self, x, y, gamma):
            gamma = gamma[:, None, None, None]
            return (y - gamma * x) / (1 - gamma**2).sqrt()

    given = pair(count=20)
    assert noise_errors(Knowing(), SAMPLER, given | {"reference": given["x"]}) == pytest.approx([0.0] * STEPS, abs=1e-4)


def test_restored_pictures_are_compared_with_their_references_and_not_with_themselves():
    """A picture that is its own reference has no distance to make smaller."""
    torch.manual_seed(0)
    restorer = Restorer(SMALLEST.restorer).eval()
    given = pair(count=3, side=32)
    given["reference"][1] = given["x"][1]
    given["reference"][2] = given["x"][2] + 0.2
    distorted, restored = restored_psnr(restorer, SMALLEST, given)
    assert distorted.shape == restored.shape == (2,)
    assert distorted[1] == pytest.approx(20 * math.log10(2 / 0.2), abs=1e-3)
    report = report_on(restorer, SMALLEST, given, 16)
    assert report.distorted_db == pytest.approx(float(distorted.mean()))
    assert report.restored_db == pytest.approx(float(restored.mean())) and 0 <= report.better <= 1
    assert report.errors_at_view == noise_errors(restorer, SAMPLER, given)
    corners = {name: pictures[:, :, :16, :16] for name, pictures in given.items()}
    assert report.errors_at_side == noise_errors(restorer, SAMPLER, corners) != report.errors_at_view


def test_a_report_prints_each_noise_level_at_both_sizes_and_refuses_what_does_not_carry_over():
    """D15: the paper's 16×16 crops, learned with BatchNorm."""
    report = report_on(Restorer(SMALLEST.restorer).eval(), SMALLEST, pair(side=32), 16)
    good = replace(report, errors_at_side=(0.4, 0.1, 0.1, 0.1), errors_at_view=(0.4, 0.1, 0.1, 1.0))
    lines = list(good.lines())
    assert "at 16² and at 32² pixels" in lines[0] and len(lines) == 2 + STEPS
    assert lines[4].split() == ["t", "4", "0.1000", "1.0000"]
    good.check()
    for worst in (1.01, math.nan):
        bad = replace(good, errors_at_view=(0.4, 0.1, worst, 0.1))
        with pytest.raises(TrainingError, match=r"is (1.01|nan) at 3 steps left on pictures of 32² .* \(--crop-side\)"):
            bad.check()
    replace(good, errors_at_side=(0.4, 0.1, 5.0, 0.1)).check()


def test_a_crop_that_the_levels_do_not_halve_is_refused():
    check_side(TINY, 64)
    for side in (60, 104):
        with pytest.raises(ValueError, match=f"crop side is {side}; expected a multiple of 8, .* at most 96"):
            check_side(TINY, side)
