"""The start of a whole head: the mean of what a TCAB and the diffusion's features tell, each alone."""

import pytest
import torch
from training_network import SMALLEST

from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.training.diffvqa.bundled.head_start import diffusion_alone, start_from_parts
from diffvqa_rt.training.diffvqa.bundled.tcab_pretraining import ReadTcab
from diffvqa_rt.training.diffvqa.start import start_alike_everywhere, with_new_head

SIDE = SMALLEST.view_size


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(0)
    return ReadTcab(SMALLEST, frames=SMALLEST.frames)


@pytest.fixture(scope="module")
def alone():
    return with_new_head(random_network(SMALLEST), diffusion_alone(SMALLEST), seed=2)


@pytest.fixture
def network(learned, alone):
    network = with_new_head(random_network(SMALLEST), SMALLEST, seed=1)
    start_from_parts(network, learned, alone)
    return network


def test_the_diffusions_head_has_no_tcab_and_half_the_units():
    config = diffusion_alone(SMALLEST)
    assert config.head.tcab.views == "none" and config.head.mlp_width == SMALLEST.head.mlp_width // 2


def test_it_scores_each_frame_as_both_do_on_average_and_weighs_them_evenly(network, learned, alone):
    frames = torch.randn(3, 2 * SMALLEST.frames, 3, SIDE, SIDE)
    low, high = SMALLEST.score_range
    with torch.no_grad():
        _, frame_scores, weights = network(frames)
        by_tcab = low + (high - low) * learned(frames[:, 1::2])[:, 0]
        by_diffusion = alone(frames).frame_scores
    torch.testing.assert_close(frame_scores, (by_tcab + by_diffusion) / 2, atol=1e-3, rtol=0)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / SMALLEST.frames))
    assert not torch.equal(by_tcab[:, 0], by_tcab[:, 1]) and not torch.equal(by_tcab, by_diffusion)


def test_its_tcabs_stay_as_they_are_and_the_diffusions_path_goes_on_learning(network, learned):
    for view in (network.head.semantic, network.head.distortion):
        assert all(torch.equal(x, learned.tcab.state_dict()[name]) for name, x in view.tcab.state_dict().items())
        assert not any(parameter.requires_grad for parameter in view.tcab.parameters())
    network(torch.randn(3, 2 * SMALLEST.frames, 3, SIDE, SIDE)).frame_scores.sum().backward()
    last = network.head.distortion.mlp[-1]
    assert (last.weight.grad[:, SMALLEST.head.mlp_width // 2 :] != 0).any()
    assert any((parameter.grad != 0).any() for parameter in network.head.distortion.dff.parameters())


def test_a_head_may_start_alike_everywhere():
    network = with_new_head(random_network(SMALLEST), SMALLEST, seed=1)
    width = SMALLEST.head.fused_channels * (SMALLEST.latent_size // 4) ** 2
    vectors = torch.rand(3, width + SMALLEST.head.tcab.width)
    moved = vectors.clone()
    # The second half of the places in front of the first.
    cells = moved[:, :width].unflatten(1, (SMALLEST.head.fused_channels, -1))
    moved[:, :width] = cells.roll(cells.shape[2] // 2, dims=2).flatten(1)
    mlp = network.head.distortion.mlp
    assert not torch.allclose(mlp(moved), mlp(vectors))
    start_alike_everywhere(network)
    torch.testing.assert_close(mlp(moved), mlp(vectors))
