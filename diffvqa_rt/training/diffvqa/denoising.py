"""Eq. (10) of the paper: the Controller learns to name the noise in a noised latent, and the UNet before it."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.models.blocks import ResnetBlock
from diffvqa_rt.models.diffvqa.blocks import SpatialTransformer
from diffvqa_rt.models.diffvqa.diffusion import DiffusionFeatureExtractor
from diffvqa_rt.sampler import alphas_cumprod, noise_strengths, timesteps
from diffvqa_rt.training.loop import Objective

Trained = Literal["controller", "unet"]
Visited = Literal["schedule", "sampler"]

# Up to this many times what the sampler's noise has over the schedule's: estimates of z0 that are off add to it.
_REACH = 2.0


class DenoisingObjective(Objective):
    """‖ε_θ(z_t, t, z0) − ε‖², mean over the elements, for t drawn evenly from the whole schedule.

    With `visits="sampler"` t is one of the sampler's K timesteps and ε as strong as the sampler's variance leaves it
    there (`noise_strengths`: with eq. (2)'s more than the schedule's, with the posterior's as much), to which the error
    is relative: trained on the schedule's noise alone, a small network removes no more than that, and what is left
    stays in ẑ0. The last timestep keeps the schedule's noise: ẑ0 hardly depends on
    its ε, and a network that is asked for twelve times the noise of all others ends up saturated.

    Args of `forward`: pictures [B, 3, S, S] in [−1, 1].

    Args:
        trains: `controller` (adaptation, all else frozen) or `unet` (before there is one: ε_θ(z_t, t), no Controller).
        draws: noises and timesteps for each picture; more save the VAE's time where that is what a step takes.
        visits: which noise, as above; `schedule` is eq. (10).
    """

    recomputed = (ResnetBlock, SpatialTransformer)
    alphas: Tensor
    visited: Tensor
    strengths: Tensor

    def __init__(
        self,
        extractor: DiffusionFeatureExtractor,
        *,
        trains: Trained,
        draws: int = 1,
        visits: Visited = "schedule",
    ) -> None:
        super().__init__()
        self._is_controlled = trains == "controller"
        self._draws = draws
        self.extractor = extractor.requires_grad_(False)
        self.trained = (extractor.controller if self._is_controlled else extractor.unet).requires_grad_(True)
        sampler = extractor.config.sampler
        train_steps = torch.arange(sampler.train_steps)
        is_sampler = visits == "sampler"
        strengths = torch.from_numpy(noise_strengths(sampler)).float()
        strengths[-1] = 1.0
        self.register_buffer("alphas", torch.from_numpy(alphas_cumprod(sampler)).float())
        self.register_buffer("visited", torch.from_numpy(timesteps(sampler)) if is_sampler else train_steps)
        self.register_buffer("strengths", strengths if is_sampler else torch.ones(sampler.train_steps))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            z0 = self.extractor.vae(pictures).float().repeat_interleave(self._draws, dim=0)
        visit = torch.randint(len(self.visited), (len(z0),), device=z0.device)
        timestep = self.visited[visit]
        unit_noise = torch.randn_like(z0)
        excess = _REACH * (self.strengths[visit] - 1) * torch.rand(len(z0), device=z0.device)
        strength = (1 + excess)[:, None, None, None]
        noise = strength * unit_noise
        alpha = self.alphas[timestep][:, None, None, None]
        z = alpha.sqrt() * z0 + (1 - alpha).sqrt() * noise
        if self._is_controlled:
            predicted = self.extractor.predict_noise(z, z0, timestep)
        else:
            unet = self.extractor.unet
            predicted = unet(z, unet.conditioning(timestep, self.extractor.null_prompt))[0]
        return {"loss": F.mse_loss(predicted.float() / strength, unit_noise)}
