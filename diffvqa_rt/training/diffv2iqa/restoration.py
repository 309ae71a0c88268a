"""Restoration pretraining (SPEC §2, eq. 6 of the paper): the restorer learns the noise in a noised reference."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.models.diffv2iqa.restorer import Attention, Block, Restorer
from diffvqa_rt.sampler import SamplerConfig, alphas_cumprod
from diffvqa_rt.training.loop import Objective


def noise_levels(sampler: SamplerConfig) -> Tensor:
    """γ_t = √ᾱ_t for t = 0 … T, [T + 1] float32; γ_0 = 1."""
    return torch.from_numpy(np.sqrt(np.append(1.0, alphas_cumprod(sampler)))).float()


class RestorationObjective(Objective):
    """‖ε − ε_θ([x, γ x_ref + √(1−γ²) ε], γ)‖², mean over the elements (eq. 6, D12).

    The condition is the distorted picture and the target the reference (D11). Of each picture for itself (D10), t is
    drawn from 1 … T and γ from [γ_t, γ_{t−1}], both uniformly.

    Args of `forward`: x and reference [B, 3, side, side] in [−1, 1].
    """

    recomputed = (Block,)
    levels: Tensor

    def __init__(self, restorer: Restorer, sampler: SamplerConfig) -> None:
        super().__init__()
        self.trained: Restorer = restorer.requires_grad_(True)
        # A step takes a quarter less time on a CPU. Its overload of `to` has no type.
        self.trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("levels", noise_levels(sampler))

    def forward(self, x: Tensor, reference: Tensor) -> dict[str, Tensor]:
        steps_left = torch.randint(1, len(self.levels), (len(x),), device=x.device)
        least, most = self.levels[steps_left], self.levels[steps_left - 1]
        gamma = least + (most - least) * torch.rand(len(x), device=x.device)
        noise = torch.randn_like(reference)
        predicted = self.trained(x, noised(reference, gamma, noise), gamma)
        return {"loss": F.mse_loss(predicted.float(), noise)}


def noised(reference: Tensor, gamma: Tensor, noise: Tensor) -> Tensor:
    """γ x_ref + √(1−γ²) ε of pictures and noise [B, 3, H, W], gamma [B]."""
    gamma = gamma[:, None, None, None]
    return gamma * reference + (1 - gamma**2).sqrt() * noise


@torch.no_grad()
def start_as_copy(restorer: Restorer) -> None:
    """Makes an untrained restorer give y itself, from where it learns what to take away sooner.

    Most of the noise is y nearly as it is, and the sampler divides ε's error by γ, which is small there. From an
    ordinary start a small network spends its first thousand steps on learning to hand y on. Here the first convolution
    passes y and −y through, every residual branch and attention begins at zero, and since SiLU(u) − SiLU(−u) = u, the
    last layers can join the two exactly.
    """
    unet: Any = restorer.unet  # whose layers a type checker does not know
    for block in unet.blocks():
        ends = [block.residual.conv2]
        if isinstance(block.attention, Attention):
            ends.append(block.attention.out)
        for parameter in nn.ModuleList(ends).parameters():
            parameter.zero_()
    signs = torch.cat([torch.eye(3), -torch.eye(3)])
    unet.conv_in.weight[: len(signs)] = 0
    unet.conv_in.weight[: len(signs), 3:, 1, 1] = signs
    unet.conv_in.bias[: len(signs)] = 0
    # The last block takes what `conv_in` gave behind what comes from below.
    shortcut = unet.ups[-1].residual.conv_shortcut
    shortcut.weight[: len(signs)] = 0
    behind = shortcut.in_channels - unet.conv_in.out_channels
    shortcut.weight[: len(signs), behind : behind + len(signs), 0, 0] = torch.eye(len(signs))
    shortcut.bias[: len(signs)] = 0
    unet.conv_out.weight.zero_()
    unet.conv_out.bias.zero_()
    unet.conv_out.weight[:, : len(signs), 1, 1] = signs.T
