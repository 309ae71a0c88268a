"""Adaptation: batches of pictures, eq. (10), and the VAE that is trained before it."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from clips import make_clip
from PIL import Image
from torch.nn import functional as F
from training_network import SMALLEST

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.metrics.diffvqa.engines import PIXELS
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.metrics.diffvqa.views import cut_views
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.sampler import alphas_cumprod, noise_strengths, timesteps
from diffvqa_rt.training.diffvqa.bundled.autoencoder import (
    AutoencoderObjective,
    normalize_latents,
    start_as_identity,
    texture_difference,
)
from diffvqa_rt.training.diffvqa.decoder import autoencoder
from diffvqa_rt.training.diffvqa.denoising import DenoisingObjective
from diffvqa_rt.training.diffvqa.pictures import PictureBatches, StoredPictures, store_pictures
from diffvqa_rt.training.loop import FitConfig, fit
from diffvqa_rt.training.media import find_media
from diffvqa_rt.video import sample_frames


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Two videos, one of them below, a photograph, and what is neither."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "below").mkdir()
    (folder / "one.mp4").write_bytes(make_clip(size=(96, 80), frames=8))
    (folder / "below" / "two.MKV").write_bytes(make_clip(container="matroska", size=(64, 64), frames=4))
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    (folder / "notes.txt").write_text("not a video")
    return folder


def batches_of(files, **changes):
    settings = {"batch": 8, "per_file": 4, "frames": 2, "size": 64, "seed": 3} | changes
    return PictureBatches(files, **settings)


def test_a_step_is_the_same_pictures_whenever_asked_and_other_steps_are_others(media):
    files = find_media([media])
    batches = batches_of(files)
    first = batches[5]["pictures"]
    assert first.shape == (8, 3, 64, 64) and first.dtype == torch.float32
    assert first.min() >= -1 and first.max() <= 1
    batches[6]
    assert torch.equal(batches[5]["pictures"], first)
    assert torch.equal(batches_of(files)[5]["pictures"], first)
    assert not torch.equal(batches[6]["pictures"], first)
    assert not torch.equal(batches_of(files, seed=4)[5]["pictures"], first)


@pytest.mark.parametrize(("batch", "per_file", "processes"), [(8, 4, 2), (6, 2, 2), (6, 2, 3), (4, 4, 4)])
def test_processes_share_the_pictures_that_one_would_see(media, batch, per_file, processes):
    """A file's pictures may go to two processes."""
    settings = {"batch": batch, "per_file": per_file}
    whole = batches_of(find_media([media]), **settings)
    parts = [batches_of(find_media([media]), **settings, processes=processes).on_rank(r) for r in range(processes)]
    shares = [part[5]["pictures"] for part in parts]
    assert {len(share) for share in shares} == {batch // processes}
    assert torch.equal(torch.cat(shares), whole[5]["pictures"])


def test_a_batch_that_the_processes_cannot_share_is_refused(media):
    with pytest.raises(ValueError, match="batch is 8, of all processes together; expected a multiple of 3"):
        batches_of(find_media([media]), processes=3)


def test_pictures_are_what_scoring_sees(media):
    path = media / "below" / "two.MKV"  # as large as a view, so that there is one crop
    views = PIXELS.normalize(cut_views(sample_frames(path, 2).frames, 64)[0])
    for picture in batches_of([path])[0]["pictures"].numpy():
        assert any(np.array_equal(picture, view) for view in views)


def test_what_cannot_be_decoded_is_named_once_and_another_is_drawn(media, tmp_path, caplog):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 1000)
    batches = batches_of([broken, media / "one.mp4"])
    with caplog.at_level(logging.WARNING):
        for step in range(10):
            assert batches[step]["pictures"].shape == (8, 3, 64, 64)
    assert len(caplog.records) == 1 and "broken.mp4" in caplog.text
    with pytest.raises(TrainingError, match=r"20 files in a row cannot be decoded, the last of them .*broken.mp4"):
        batches_of([broken])[0]


def test_the_loss_is_equation_10_and_moves_the_controller_alone():
    network = random_network(SMALLEST)
    extractor = network.extractor
    objective = DenoisingObjective(extractor, trains="controller", draws=2)
    pictures = torch.rand(3, 3, 64, 64) * 2 - 1
    torch.manual_seed(1)
    loss = objective(pictures)["loss"]
    torch.manual_seed(1)
    z0 = extractor.vae(pictures).repeat_interleave(2, dim=0)
    timestep, noise = torch.randint(1000, (6,)), torch.randn_like(z0)
    alpha = torch.from_numpy(alphas_cumprod(SMALLEST.sampler)).float()[timestep].reshape(6, 1, 1, 1)
    predicted = extractor.predict_noise(alpha.sqrt() * z0 + (1 - alpha).sqrt() * noise, z0, timestep)
    torch.testing.assert_close(loss, F.mse_loss(predicted, noise))
    loss.backward()
    assert {name.split(".")[0] for name, p in extractor.named_parameters() if p.grad is not None} == {"controller"}


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_the_noise_of_the_sampler_is_as_strong_as_it_leaves_it(variance):
    sampler = replace(SMALLEST.sampler, variance=variance)
    extractor = random_network(replace(SMALLEST, sampler=sampler)).extractor
    objective = DenoisingObjective(extractor, trains="controller", visits="sampler")
    asked = []

    def name_no_noise(z, z0, timestep):
        asked.append((z, z0, timestep))
        return torch.zeros_like(z)

    objective.extractor.predict_noise = name_no_noise
    torch.manual_seed(1)
    loss = objective(torch.rand(600, 3, 64, 64) * 2 - 1)["loss"]
    # Relative to the noise's strength, however strong it is.
    assert loss.item() == pytest.approx(1, abs=0.01)
    [(z, z0, timestep)] = asked
    strengths = dict(zip(timesteps(sampler).tolist(), noise_strengths(sampler), strict=True))
    assert set(timestep.tolist()) == set(strengths)
    alphas = torch.from_numpy(alphas_cumprod(SMALLEST.sampler)).float()
    strengths[0] = 1.0  # as eq. (10) has it
    for t, expected in strengths.items():
        alpha = alphas[t]
        drawn = ((z - alpha.sqrt() * z0) / (1 - alpha).sqrt())[timestep == t].std(dim=(1, 2, 3))
        # Evenly between the schedule's and twice the sampler's excess.
        assert drawn.mean() == pytest.approx(expected, rel=0.2)
        assert drawn.max() < 1.1 * (2 * expected - 1) + 0.1


def test_the_unet_is_trained_without_a_controller():
    extractor = random_network(SMALLEST).extractor
    objective = DenoisingObjective(extractor, trains="unet")
    pictures = torch.rand(2, 3, 64, 64)
    torch.manual_seed(1)
    loss = objective(pictures)["loss"]
    loss.backward()
    assert {name.split(".")[0] for name, p in extractor.named_parameters() if p.grad is not None} == {"unet"}
    for parameter in extractor.controller.parameters():
        torch.nn.init.normal_(parameter)
    torch.manual_seed(1)
    assert torch.equal(objective(pictures)["loss"], loss)


def test_adaptation_lowers_the_loss_and_leaves_the_rest_alone(media, tmp_path):
    extractor = random_network(SMALLEST).extractor
    before = {name: p.clone() for name, p in extractor.named_parameters()}
    losses = []
    objective = DenoisingObjective(extractor, trains="controller")
    assert {type(block) for block in objective.modules()} >= set(objective.recomputed)
    fit(
        objective,
        batches_of(find_media([media]), batch=8),
        FitConfig(steps=60, learning_rate=3e-3, weight_decay=0.0, gradient_checkpointing=True),
        tmp_path,
        describes={},
        accelerator=Accelerator(cpu=True),
        on_step=lambda done, scalars: losses.append(scalars["loss"]),
    )
    assert np.mean(losses[-2:]) < 0.9 * losses[0]
    moved = {name for name, parameter in extractor.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.split(".")[0] for name in moved} == {"controller"}
    assert {"controller.conv_in.weight", "controller.controlnet_mid_block.weight"} <= moved


@pytest.fixture(scope="module")
def trained_autoencoder():
    torch.manual_seed(0)
    return autoencoder(SMALLEST.vae).eval()


def test_the_autoencoders_encoder_is_ours(trained_autoencoder):
    ours = random_network(SMALLEST).extractor.vae
    theirs = trained_autoencoder.state_dict()
    ours.load_state_dict({name: theirs[name] for name in ours.state_dict()})
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        mean = trained_autoencoder.encode(pictures).latent_dist.mean
        torch.testing.assert_close(ours(pictures), SMALLEST.vae.scaling_factor * mean)


@torch.no_grad()
def test_an_autoencoder_that_starts_as_identity_begins_with_colour():
    torch.manual_seed(0)
    started = autoencoder(TINY.vae).eval()
    start_as_identity(started)
    # Two flat halves of different colours.
    picture = torch.tensor([[0.6, -0.2, -0.6], [-0.6, 0.1, 0.6]]).T.repeat_interleave(32, dim=1)
    picture = picture[None, :, None].expand(1, 3, 64, 64)
    decoded = started.decode(started.encode(picture).latent_dist.mean).sample
    colours = torch.stack([decoded[0, :, :, 8:24].mean((1, 2)), decoded[0, :, :, 40:56].mean((1, 2))])
    assert (colours[0] - colours[1]).sign().tolist() == [1, -1, -1]


def test_kept_pictures_are_those_of_the_batches_they_were_drawn_from(media, tmp_path):
    drawn, seen = batches_of(find_media([media]), batch=2, per_file=1), []
    store_pictures(drawn, 5, tmp_path / "kept.npy", lambda *at: seen.append(at))
    kept = StoredPictures(tmp_path / "kept.npy", batch=6, seed=1)
    assert seen == [(2, 6), (4, 6), (6, 6)]
    torch.testing.assert_close(kept[0]["pictures"], torch.cat([drawn[step]["pictures"] for step in range(3)]))
    few = StoredPictures(tmp_path / "kept.npy", batch=2, seed=1)
    assert torch.equal(few[3]["pictures"], few[3]["pictures"])
    assert len({few[step]["pictures"].sum().item() for step in range(10)}) > 3


@torch.no_grad()
def test_normalising_the_latents_changes_no_reconstruction(trained_autoencoder):
    pictures = torch.rand(20, 3, 64, 64) * 2 - 1
    before = trained_autoencoder.decode(trained_autoencoder.encode(pictures).latent_dist.mean).sample
    normalize_latents(trained_autoencoder, pictures)
    mean = trained_autoencoder.encode(pictures).latent_dist.mean
    torch.testing.assert_close(trained_autoencoder.decode(mean).sample, before, rtol=1e-3, atol=1e-4)
    latents = SMALLEST.vae.scaling_factor * mean
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), rtol=0, atol=1e-3)


def test_texture_tells_noise_from_its_mean_and_one_noise_not_from_another():
    torch.manual_seed(0)
    flat, noise, other = torch.zeros(1, 3, 64, 64), torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)
    assert texture_difference(noise, noise) == 0
    assert texture_difference(noise, other) < 0.2 < 2 < texture_difference(flat, noise)


def test_the_autoencoder_learns_to_reconstruct(tmp_path):
    torch.manual_seed(0)
    coarse = torch.rand(24, 3, 8, 8) * 255
    pictures = F.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 255).byte()
    np.save(tmp_path / "pictures.npy", pictures.numpy())
    batches = StoredPictures(tmp_path / "pictures.npy", batch=6, seed=0)
    objective = AutoencoderObjective(autoencoder(SMALLEST.vae), patch=64)
    start_as_identity(objective.trained.autoencoder)
    held = batches[1000]

    def measured():
        with torch.no_grad():
            return {name: float(value) for name, value in objective(**held).items()}

    before = measured()
    config = FitConfig(steps=60, learning_rate=5e-3, weight_decay=0.0, schedule="cosine")
    fit(objective, batches, config, tmp_path, describes={}, accelerator=Accelerator(cpu=True))
    after = measured()
    assert set(after) == {"loss", "l1", "coarse", "texture", "readout", "divergence", "psnr_db"}
    assert after["psnr_db"] > before["psnr_db"] + 2 and after["loss"] < 0.8 * before["loss"]
