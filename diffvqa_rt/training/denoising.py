"""Eq. (10) of the paper: the Controller learns to name the noise in a noised latent, and the UNet before it."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.models.diffusion import DiffusionFeatureExtractor
from diffvqa_rt.sampler import alphas_cumprod
from diffvqa_rt.training.loop import Objective


class DenoisingObjective(Objective):
    """‖ε_θ(z_t, t, z0) − ε‖², mean over the elements, for t drawn evenly from the whole schedule.

    Args of `forward`: pictures [B, 3, S, S] in [−1, 1].

    Args:
        trains: `controller` (adaptation, all else frozen) or `unet` (before there is one: ε_θ(z_t, t), no Controller).
        draws: noises and timesteps for each picture; more save the VAE's time where that is what a step takes.
    """

    alphas: Tensor

    def __init__(
        self, extractor: DiffusionFeatureExtractor, *, trains: Literal["controller", "unet"], draws: int = 1
    ) -> None:
        super().__init__()
        self._is_controlled = trains == "controller"
        self._draws = draws
        self.extractor = extractor.requires_grad_(False)
        self.trained = (extractor.controller if self._is_controlled else extractor.unet).requires_grad_(True)
        self.register_buffer("alphas", torch.from_numpy(alphas_cumprod(extractor.config.sampler)).float())

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            z0 = self.extractor.vae(pictures).float().repeat_interleave(self._draws, dim=0)
        timestep = torch.randint(len(self.alphas), (len(z0),), device=z0.device)
        noise = torch.randn_like(z0)
        alpha = self.alphas[timestep][:, None, None, None]
        z = alpha.sqrt() * z0 + (1 - alpha).sqrt() * noise
        if self._is_controlled:
            predicted = self.extractor.predict_noise(z, z0, timestep)
        else:
            unet = self.extractor.unet
            predicted = unet(z, unet.conditioning(timestep, self.extractor.null_prompt))[0]
        return {"loss": F.mse_loss(predicted.float(), noise)}
