"""The adapted diffusion feature extractor (SPEC §2): VAE encoder, UNet, Controller and the K-step sampler."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.models.diffvqa.unet import Controller, UNet
from diffvqa_rt.models.diffvqa.vae import VaeEncoder
from diffvqa_rt.models.sampling import SamplerStep
from diffvqa_rt.sampler import initial_coefficients, timesteps


class DiffusionFeatureExtractor(nn.Module):
    """The weights: `vae`, `unet`, `controller` and `null_prompt`, the null text's hidden states."""

    null_prompt: Tensor

    def __init__(self, config: DiffVQAConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = VaeEncoder(config.vae)
        self.unet = UNet(config.unet)
        self.controller = Controller(config.unet)
        self.register_buffer("null_prompt", torch.zeros(config.unet.text_tokens, config.unet.text_width))

    def predict_noise(self, z: Tensor, z0: Tensor, timestep: Tensor) -> Tensor:
        """ε_θ(z_t, t, z0) of eq. (10), which adaptation trains: z, z0 [B, C, h, w] and timestep [B] int64 → like z."""
        control = self.controller(z, z0, self.controller.conditioning(timestep, self.null_prompt))
        return self.unet(z, self.unet.conditioning(timestep, self.null_prompt), control)[0]


class DenoisingStep(SamplerStep):
    """One of the K steps, with all that depends on the step alone folded into tables. The `unet_controller` engine.

    Args of `forward`: z, z0 [V, 2N, C, h, w] float32; step [1] int64, 0 … K−1. Step 0 makes its z from z0 and the
    noise table by eq. (1) and does not read z. Returns z_next (same shape; at the last step F_Latent = ẑ0) and the four
    decoder blocks' outputs [V, 2N, C_i, h_i, w_i], coarse to fine.
    """

    @torch.no_grad()
    def __init__(self, extractor: DiffusionFeatureExtractor) -> None:
        config = extractor.config
        device = extractor.null_prompt.device
        super().__init__(config.sampler, config.latent_shape, device)
        self.unet = extractor.unet
        self.controller = extractor.controller
        self.z0_scale, self.noise_scale = initial_coefficients(config.sampler)
        steps = torch.from_numpy(timesteps(config.sampler)).to(device)
        self._unet_tables = self.unet.conditioning(steps, extractor.null_prompt)
        self._controller_tables = self.controller.conditioning(steps, extractor.null_prompt)

    def tables(self) -> list[Tensor]:
        """The tables that the timesteps and the text give to all blocks."""
        return [tensor for given in (self._unet_tables, self._controller_tables) for tensor in given.tensors()]

    def convert_tables(self, dtype: torch.dtype) -> None:
        """Puts what the timesteps and the text give, computed in the dtype of their weights, into another dtype."""
        self._unet_tables = self._unet_tables.map(lambda table: table.to(dtype))
        self._controller_tables = self._controller_tables.map(lambda table: table.to(dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DenoisingStep":
        """The function that `to(device)` goes through: the tables move with the weights."""
        super()._apply(fn, recurse)
        self._unet_tables, self._controller_tables = self._unet_tables.map(fn), self._controller_tables.map(fn)
        return self

    def forward(self, z: Tensor, z0: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        noised = self.z0_scale * z0 + self.noise_scale * self.initial_noise
        latents, references = torch.where(step == 0, noised, z).flatten(0, 1), z0.flatten(0, 1)
        control = self.controller(latents, references, self._controller_tables.at_step(step))
        epsilon, features = self.unet(latents, self._unet_tables.at_step(step), control)
        next_latents = self.advance(latents, epsilon.float(), step)
        # The borders are float32 whatever runs between them.
        return tuple(x.float().unflatten(0, z.shape[:2]) for x in (next_latents, *features))


def reconstruct(step: DenoisingStep, z0: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Plays all `steps` towards z0 [V, 2N, C, h, w]. Returns (F_Latent, F_MS) of SPEC §2, what the last step gives."""
    z, features = torch.zeros_like(z0), []
    for index in range(steps):
        z, *features = step(z, z0, torch.tensor([index], device=z0.device))
    return z, features
