"""The diffusion extractor against diffusers: same weights, same outputs; and its sizes at full scale."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel

from diffvqa_rt.metrics.diffvqa.presets import SD21, TINY
from diffvqa_rt.models.diffvqa.diffusion import DenoisingStep, DiffusionFeatureExtractor, reconstruct
from diffvqa_rt.models.diffvqa.network import DiffVQA, random_network
from diffvqa_rt.models.diffvqa.unet import Controller, UNet
from diffvqa_rt.models.diffvqa.vae import VaeEncoder
from diffvqa_rt.sampler import SamplerConfig, alphas_cumprod, coefficient_table, noise_strengths, noise_table, timesteps

# float32 networks of the same weights, summed in another order.
RELATIVE = 2e-5

SMALL = dataclasses.replace(TINY, frames=2, view_size=64)
TWO_LAYERS = dataclasses.replace(
    SMALL,
    unet=dataclasses.replace(SMALL.unet, layers_per_block=2),
    vae=dataclasses.replace(SMALL.vae, layers_per_block=2),
)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    error = (actual - expected).abs().max() / expected.abs().max()
    assert actual.shape == expected.shape
    assert error < RELATIVE, f"relative error {error:.2e}"


def diffusers_unet_arguments(config) -> dict:
    return {
        "block_out_channels": config.unet.channels,
        "layers_per_block": config.unet.layers_per_block,
        "attention_head_dim": config.unet.attention_heads,
        "cross_attention_dim": config.unet.text_width,
        "norm_num_groups": config.unet.norm_groups,
        "use_linear_projection": True,
    }


def diffusers_unet(config) -> UNet2DConditionModel:
    return UNet2DConditionModel(sample_size=config.latent_size, **diffusers_unet_arguments(config)).eval()


@pytest.mark.parametrize("config", [SMALL, TWO_LAYERS], ids=["one_layer", "two_layers"])
@torch.inference_mode()
def test_unet_equals_diffusers(config):
    oracle = diffusers_unet(config)
    unet = UNet(config.unet).eval()
    unet.load_state_dict(oracle.state_dict())
    z = torch.randn(3, *config.latent_shape)
    text = torch.randn(config.unet.text_tokens, config.unet.text_width)
    timestep = torch.tensor([999, 111, 0])
    captured = []
    for block in oracle.up_blocks:
        block.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    expected = oracle(z, timestep, text.expand(3, -1, -1)).sample
    epsilon, features = unet(z, unet.conditioning(timestep, text))
    assert_close(epsilon, expected)
    for feature, reference, shape in zip(features, captured, config.feature_shapes, strict=True):
        assert feature.shape[1:] == shape
        assert_close(feature, reference)


@torch.inference_mode()
def test_controller_and_steered_unet_equal_diffusers_controlnet():
    # A ControlNet whose hint embedding gives 0 is the Controller without one; 8 channels are [z, z0].
    oracle_unet = diffusers_unet(TWO_LAYERS)
    oracle = ControlNetModel(in_channels=8, **diffusers_unet_arguments(TWO_LAYERS)).eval()
    for name, parameter in oracle.named_parameters():
        if name.startswith("controlnet_"):
            torch.nn.init.normal_(parameter, std=0.0 if "cond_embedding" in name else 0.1)
    controller, unet = Controller(TWO_LAYERS.unet).eval(), UNet(TWO_LAYERS.unet).eval()
    weights = oracle.state_dict()
    controller.load_state_dict({k: v for k, v in weights.items() if "cond_embedding" not in k})
    unet.load_state_dict(oracle_unet.state_dict())

    z, z0 = torch.randn(2, 2, *TWO_LAYERS.latent_shape)
    text = torch.randn(TWO_LAYERS.unet.text_tokens, TWO_LAYERS.unet.text_width)
    timestep = torch.tensor([555])
    hint = torch.zeros(2, 3, TWO_LAYERS.view_size, TWO_LAYERS.view_size)
    down, mid = oracle(torch.cat([z, z0], 1), timestep, text.expand(2, -1, -1), hint, return_dict=False)
    controls, control_mid = controller(z, z0, controller.conditioning(timestep, text))
    for actual, expected in zip([*controls, control_mid], [*down, mid], strict=True):
        assert_close(actual, expected)

    expected = oracle_unet(
        z, timestep, text.expand(2, -1, -1), down_block_additional_residuals=down, mid_block_additional_residual=mid
    ).sample
    actual, _ = unet(z, unet.conditioning(timestep, text), (controls, control_mid))
    assert_close(actual, expected)


@pytest.mark.parametrize("config", [SMALL, TWO_LAYERS], ids=["one_layer", "two_layers"])
@torch.inference_mode()
def test_vae_encoder_equals_diffusers(config):
    oracle = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=config.vae.channels,
        layers_per_block=config.vae.layers_per_block,
        norm_num_groups=config.vae.norm_groups,
    ).eval()
    vae = VaeEncoder(config.vae).eval()
    vae.load_state_dict({k: v for k, v in oracle.state_dict().items() if k.startswith(("encoder.", "quant_conv."))})
    frames = torch.rand(2, 3, config.view_size, config.view_size) * 2 - 1
    assert_close(vae(frames), 0.18215 * oracle.encode(frames).latent_dist.mean)


SCHEDULERS = {"cosine": "squaredcos_cap_v2", "scaled_linear": "scaled_linear"}
VARIANCES = {"beta": "fixed_large", "posterior": "fixed_small"}


@pytest.mark.parametrize("clamp", [8.0, 1e9], ids=["clamped", "unclamped"])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("schedule", SCHEDULERS)
@torch.inference_mode()
def test_sampler_equals_diffusers_ddpm_at_every_step(schedule, variance, clamp):
    sampler = SamplerConfig(schedule=schedule, variance=variance, latent_clamp=clamp)
    config = dataclasses.replace(SMALL, sampler=sampler)
    oracle = DDPMScheduler(
        beta_schedule=SCHEDULERS[schedule],
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample_range=clamp,
        variance_type=VARIANCES[variance],
        timestep_spacing="linspace",
    )
    oracle.set_timesteps(config.sampler.steps)
    assert oracle.timesteps.tolist() == timesteps(config.sampler).tolist() == [*range(999, -1, -111)]
    step = DenoisingStep(DiffusionFeatureExtractor(config))
    z = torch.randn(2, *config.latent_shape)
    for index, timestep in enumerate(oracle.timesteps):
        epsilon = torch.randn(2, *config.latent_shape)
        noise_free = oracle.step(epsilon, timestep, z, generator=torch.Generator().manual_seed(7)).prev_sample
        drawn = torch.randn(z.shape, generator=torch.Generator().manual_seed(7))
        sigma = step.coefficients[index, 4]
        expected = noise_free - sigma * drawn + sigma * step.step_noise[index]
        assert_close(step.advance(z, epsilon, torch.tensor([index])), expected)


def test_sampler_follows_equation_2_where_the_clamp_is_inactive():
    config = SamplerConfig(schedule="cosine")
    kept = alphas_cumprod(config)[timesteps(config)]
    alpha = kept / np.append(kept[1:], 1.0)
    z, epsilon = 0.3, -0.7
    z_to_z0, eps_to_z0, z0_to_next, z_to_next, noise = coefficient_table(config).astype(np.float64).T
    ours = z0_to_next * (z_to_z0 * z + eps_to_z0 * epsilon) + z_to_next * z
    paper = (z - (1 - alpha) / np.sqrt(1 - kept) * epsilon) / np.sqrt(alpha)
    np.testing.assert_allclose(ours[1:], paper[1:], rtol=1e-5)
    np.testing.assert_allclose(ours[0], paper[0], rtol=1e-3)  # 1/√ᾱ_999 = 20,412: float32 constants lose digits here
    np.testing.assert_allclose(noise[:-1], np.sqrt(1 - alpha[:-1]), rtol=1e-6)
    assert noise[-1] == 0


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_the_noise_that_the_sampler_leaves_is_as_strong_as_said(schedule, variance):
    sampler = SamplerConfig(schedule=schedule, variance=variance, latent_clamp=1e6)
    config = dataclasses.replace(TINY, sampler=sampler)
    step = DenoisingStep(DiffusionFeatureExtractor(config)).double()
    kept = torch.from_numpy(alphas_cumprod(config.sampler)[timesteps(config.sampler)])
    z0 = torch.zeros(4, *config.latent_shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z = (1 - kept[0]).sqrt() * torch.randn(z0.shape, generator=generator, dtype=torch.float64)
    for index, strength in enumerate(noise_strengths(config.sampler)):
        step.step_noise[index] = torch.randn(config.latent_shape, generator=generator, dtype=torch.float64)
        noise = (z - kept[index].sqrt() * z0) / (1 - kept[index]).sqrt()
        assert noise.std().item() == pytest.approx(strength, rel=0.05)
        z = step.advance(z, noise, torch.tensor([index]))


@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_the_last_noise_is_the_schedules_with_the_posterior_and_many_times_it_with_equation_2(schedule):
    beta, posterior = (
        noise_strengths(SamplerConfig(schedule=schedule, variance=variance)) for variance in ("beta", "posterior")
    )
    assert posterior == pytest.approx(np.ones(10), abs=1e-3)  # of ten steps, as the specification has them
    assert beta[-1] == pytest.approx({"cosine": 29, "scaled_linear": 12}[schedule], rel=0.05)


@pytest.mark.parametrize("variance", VARIANCES)
@torch.inference_mode()
def test_a_single_step_is_the_last_from_z0_itself(variance):
    """SPEC §2, K = 1: t = 0, where eq. (1) leaves nearly all of z0, and neither variance adds anything."""
    sampler = SamplerConfig(schedule="scaled_linear", steps=1, variance=variance)
    extractor = random_network(dataclasses.replace(SMALL, sampler=sampler)).extractor
    step = DenoisingStep(extractor)
    z0 = torch.randn(1, 4, *SMALL.latent_shape)
    alpha = float(alphas_cumprod(sampler)[0])
    assert timesteps(sampler).tolist() == [0] and alpha > 0.999
    z = alpha**0.5 * z0[0] + (1 - alpha) ** 0.5 * step.initial_noise
    epsilon = extractor.predict_noise(z, z0[0], torch.zeros(4, dtype=torch.int64))
    latent, features = reconstruct(step, z0, steps=1)
    assert_close(latent[0], (z - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5)
    assert [feature.shape[2:] for feature in features] == list(SMALL.feature_shapes)


GOLDEN_NOISE = [-2.6732564, 0.66713315, -0.6075486]


def test_noise_is_standard_normal_and_never_changes():
    config = SamplerConfig(schedule="cosine")
    noise = noise_table(config, (4, 48, 48))
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    # The stream is part of what a score means: these values may never change.
    np.testing.assert_allclose(noise.ravel()[:3], GOLDEN_NOISE, rtol=1e-6)


def test_controller_starts_without_effect():
    config = SMALL
    extractor = DiffusionFeatureExtractor(config).eval()
    extractor.controller.copy_from_unet(extractor.unet)
    z, z0 = torch.randn(2, 1, *config.latent_shape)
    timestep = torch.tensor([333])
    with torch.inference_mode():
        alone, _ = extractor.unet(z, extractor.unet.conditioning(timestep, extractor.null_prompt))
        assert torch.equal(extractor.predict_noise(z, z0, timestep), alone)
    first = extractor.controller.conv_in.weight
    assert torch.equal(first[:, :4], extractor.unet.conv_in.weight) and not first[:, 4:].any()


@torch.inference_mode()
def test_folded_step_equals_the_live_network():
    network = random_network(SMALL)
    extractor = network.extractor
    step = DenoisingStep(extractor)
    z, z0 = torch.randn(2, 1, 2 * SMALL.frames, *SMALL.latent_shape)
    for index, timestep in enumerate(timesteps(SMALL.sampler)):
        if index == 0:
            continue  # eq. (1); the next test
        live = extractor.predict_noise(z[0], z0[0], torch.tensor([timestep]))
        folded, *_ = step(z, z0, torch.tensor([index]))
        assert_close(folded[0], step.advance(z[0], live, torch.tensor([index])))


@torch.inference_mode()
def test_first_step_starts_from_equation_1_whatever_z_is():
    extractor = random_network(SMALL).extractor
    step = DenoisingStep(extractor)
    z0 = torch.randn(1, 4, *SMALL.latent_shape)
    first, second = (step(torch.full_like(z0, value), z0, torch.tensor([0])) for value in (0.0, 7.0))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    oracle = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    noise = torch.from_numpy(noise_table(SMALL.sampler, SMALL.latent_shape)[0])
    noised = oracle.add_noise(z0[0], noise.expand_as(z0[0]), torch.full((4,), 999))
    live = extractor.predict_noise(noised, z0[0], torch.tensor([999]))
    assert_close(first[0][0], step.advance(noised, live, torch.tensor([0])))
    # One table for all: frames with the same latent stay the same, so a difference of frames sees only the video.
    z0[:] = z0[:, :1]
    latent, _ = reconstruct(step, z0, SMALL.sampler.steps)
    assert torch.equal(latent, latent[:, :1].expand_as(latent))


@torch.inference_mode()
def test_reconstruction_ends_at_the_clamped_estimate():
    network = random_network(SMALL)
    z0 = torch.randn(1, 2 * SMALL.frames, *SMALL.latent_shape)
    step = DenoisingStep(network.extractor)
    latent, features = reconstruct(step, z0, SMALL.sampler.steps)
    assert latent.abs().max() <= SMALL.sampler.latent_clamp
    assert [tuple(f.shape[2:]) for f in features] == list(SMALL.feature_shapes)


@torch.inference_mode()
def test_a_single_step_takes_the_features_at_timestep_0_and_gives_its_estimate():
    config = dataclasses.replace(SMALL, sampler=dataclasses.replace(SMALL.sampler, steps=1))
    assert timesteps(config.sampler).tolist() == [0]
    extractor = random_network(config).extractor
    z0 = torch.randn(1, 2, *SMALL.latent_shape)
    latent, _ = reconstruct(DenoisingStep(extractor), z0, 1)
    alpha = alphas_cumprod(config.sampler)[0]
    noise = torch.from_numpy(noise_table(config.sampler, config.latent_shape)[0])
    z = alpha**0.5 * z0[0] + (1 - alpha) ** 0.5 * noise
    epsilon = extractor.predict_noise(z.float(), z0[0], torch.zeros(2, dtype=torch.int64))
    assert_close(latent[0], ((z - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5).float())


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sd21_has_the_papers_sizes():
    with torch.device("meta"):
        network = DiffVQA(SD21)
        extractor = network.extractor
        z = torch.empty(1, *SD21.latent_shape)
        conditioning = extractor.unet.conditioning(torch.empty(1, dtype=torch.int64), extractor.null_prompt)
        epsilon, features = extractor.unet(z, conditioning)
        frames = torch.empty(1, 2 * SD21.frames, 3, SD21.view_size, SD21.view_size)
        latent = extractor.vae(frames[0])
        stacked = [f.expand(2 * SD21.frames, -1, -1, -1)[None] for f in features]
        prediction = network.head(latent[None], stacked, frames)
    assert count(extractor.unet) == 865_910_724
    zero_convolutions = count(extractor.controller.controlnet_down_blocks) + count(
        extractor.controller.controlnet_mid_block
    )
    assert count(extractor.controller) - zero_convolutions == 351_662_080 + 320 * 4 * 9  # the z0 half of conv_in
    assert count(extractor.vae) == 34_163_664
    assert [tuple(f.shape[1:]) for f in features] == [(1280, 12, 12), (1280, 24, 24), (640, 48, 48), (320, 48, 48)]
    assert tuple(epsilon.shape[1:]) == (4, 48, 48) and tuple(latent.shape) == (16, 4, 48, 48)
    assert [tuple(t.shape) for t in prediction] == [(1,), (1, 8), (1, 8)]


def test_sd21_unet_state_dict_is_diffusers_own():
    with torch.device("meta"):
        ours = {k: v.shape for k, v in UNet(SD21.unet).state_dict().items()}
        theirs = {k: v.shape for k, v in diffusers_unet(SD21).state_dict().items()}
    assert ours == theirs


@pytest.mark.slow
@torch.inference_mode()
def test_sd21_runs_one_frame_through_one_step():
    with torch.device("meta"):
        extractor = DiffusionFeatureExtractor(SD21)
    extractor = extractor.to_empty(device="cpu").eval()
    for parameter in extractor.parameters():
        parameter.uniform_(-0.01, 0.01)
    extractor.null_prompt.normal_()
    z0 = extractor.vae(torch.rand(1, 3, SD21.view_size, SD21.view_size) * 2 - 1)[None]
    z_next, *features = DenoisingStep(extractor)(torch.randn_like(z0), z0, torch.tensor([9]))
    assert z_next.isfinite().all() and z_next.shape == (1, 1, *SD21.latent_shape)
    assert [tuple(f.shape[2:]) for f in features] == list(SD21.feature_shapes)
