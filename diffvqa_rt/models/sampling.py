"""One step of the sampler in torch: its tables, and the equation that `diffvqa_rt.sampler` has in words."""

import torch
from torch import Tensor, nn

from diffvqa_rt.sampler import SamplerConfig, coefficient_table, noise_table


class SamplerStep(nn.Module):
    """The base of every metric's step from z_t to z_{t−1}: what is the same for all networks.

    Attributes:
        coefficients: [steps, 5], `coefficient_table`'s.
        initial_noise: [C, h, w], that of z_T.
        step_noise: [steps, C, h, w]; row k is what step k adds, zeros after the last.
    """

    coefficients: Tensor
    initial_noise: Tensor
    step_noise: Tensor

    def __init__(self, sampler: SamplerConfig, shape: tuple[int, int, int], device: torch.device) -> None:
        super().__init__()
        self.latent_clamp = sampler.latent_clamp
        noise = torch.from_numpy(noise_table(sampler, shape))
        self.register_buffer("coefficients", torch.from_numpy(coefficient_table(sampler)).to(device))
        self.register_buffer("initial_noise", noise[0].to(device))
        self.register_buffer("step_noise", torch.cat([noise[1:], torch.zeros_like(noise[:1])]).to(device))

    def advance(self, z: Tensor, epsilon: Tensor, step: Tensor) -> Tensor:
        """z_t and ε [B, C, h, w], step [1] int64 → z_{t−1}."""
        row = self.coefficients.index_select(0, step)[0]
        z_to_z0, eps_to_z0, z0_to_next, z_to_next, noise_to_next = row.unbind()
        z0_hat = (z_to_z0 * z + eps_to_z0 * epsilon).clamp(-self.latent_clamp, self.latent_clamp)
        return z0_to_next * z0_hat + z_to_next * z + noise_to_next * self.step_noise.index_select(0, step)
