"""Reconstructions, compared with the extractor itself and with the UNet called without a Controller."""

import dataclasses

import numpy as np
import pytest
import torch
from clips import moving_picture
from torch import nn

from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.metrics.diffvqa.views import cut_views, make_views
from diffvqa_rt.models.diffvqa.diffusion import DenoisingStep
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.training.diffvqa.decoder import VaeDecoder
from diffvqa_rt.training.diffvqa.diagnosis.reconstruction import Reconstructor, psnr_db
from diffvqa_rt.training.diffvqa.diagnosis.reconstruction_figure import draw_reconstructions

SMALL = dataclasses.replace(TINY, frames=2, view_size=64)
FRAME = moving_picture(3, 96, 80)


@pytest.fixture(scope="module")
def network():
    return random_network(SMALL)


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return VaeDecoder(SMALL.vae).eval()


@torch.inference_mode()
def test_each_view_shows_its_frame_and_the_extractors_own_latent(network, decoder):
    semantic, distortion = Reconstructor(network, decoder).reconstruct("clip", FRAME, seed=5)
    assert (semantic.view, distortion.view) == ("semantic", "distortion")
    for index, row in enumerate((semantic, distortion)):
        np.testing.assert_array_equal(row.frame, cut_views([FRAME], 64, 5)[0, index].transpose(1, 2, 0))
    views = torch.from_numpy(make_views([FRAME], 64, 5))
    z0 = network.extractor.vae(views[0])
    latent, _ = network.extract(views)
    for index, row in enumerate((semantic, distortion)):
        expected = (latent[0, index] - z0[index]).abs().mean(dim=0)
        np.testing.assert_allclose(row.adapted.error, expected, rtol=1e-4)
        decoded = decoder(latent[0])[index].clamp(-1, 1)
        assert row.adapted.picture_psnr_db == pytest.approx(psnr_db(decoded, views[0, index], 2.0), abs=1e-3)
        peak = float(z0[index].max() - z0[index].min())
        mse = float((latent[0, index] - z0[index]).square().mean())
        assert row.adapted.latent_psnr_db == pytest.approx(10 * np.log10(peak**2 / mse), abs=1e-3)


@torch.inference_mode()
def test_the_unadapted_attempt_is_the_unet_without_control(network, decoder):
    step = DenoisingStep(network.extractor)
    z0 = network.extractor.vae(torch.from_numpy(make_views([FRAME], 64)[0]))
    z = step.z0_scale * z0 + step.noise_scale * step.initial_noise
    for index in range(SMALL.sampler.steps):
        position = torch.tensor([index])
        epsilon, _ = network.extractor.unet(z, step._unet_tables.at_step(position), None)
        z = step.advance(z, epsilon, position)
    rows = Reconstructor(network, decoder).reconstruct("clip", FRAME)
    for row, found, target in zip(rows, z, z0, strict=True):
        np.testing.assert_allclose(row.unadapted.error, (found - target).abs().mean(dim=0), rtol=1e-3)
        assert np.abs(row.unadapted.error - row.adapted.error).max() > 1e-3


def test_a_controller_that_has_learned_nothing_changes_nothing(decoder):
    network = random_network(SMALL)
    for name, parameter in network.extractor.controller.named_parameters():
        if name.startswith("controlnet_"):
            nn.init.zeros_(parameter)
    for row in Reconstructor(network, decoder).reconstruct("clip", FRAME):
        np.testing.assert_array_equal(row.adapted.error, row.unadapted.error)


def test_psnr_is_the_usual_one():
    black, grey = torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.02)
    assert psnr_db(grey, black, peak=2.0) == pytest.approx(40.0, abs=1e-4)
    assert psnr_db(black, black, peak=2.0) == float("inf")


def test_the_picture_has_a_row_for_each_view(network, decoder, tmp_path):
    rows = Reconstructor(network, decoder).reconstruct("a/path/that/goes/on/and/on/until/clip$1.mp4", FRAME)
    draw_reconstructions(rows, tmp_path / "two.png")
    draw_reconstructions(rows * 2, tmp_path / "four.png")
    heights = [int.from_bytes((tmp_path / name).read_bytes()[20:24], "big") for name in ("two.png", "four.png")]
    assert heights == [774, 1428]
