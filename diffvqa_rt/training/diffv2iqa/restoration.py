"""Restoration pretraining (SPEC §2, eq. 6 of the paper): the restorer learns the noise in a noised reference."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig
from diffvqa_rt.models.diffv2iqa.restoration import RestorationStep, restore
from diffvqa_rt.models.diffv2iqa.restorer import Block, Restorer
from diffvqa_rt.sampler import SamplerConfig, alphas_cumprod
from diffvqa_rt.training.loop import Batch, Objective

# Of the squared distance of two pictures in [−1, 1].
_PEAK = 4.0
_PICTURES_AT_A_TIME = 16


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
        self.register_buffer("levels", noise_levels(sampler))

    def forward(self, x: Tensor, reference: Tensor) -> dict[str, Tensor]:
        steps_left = torch.randint(1, len(self.levels), (len(x),), device=x.device)
        least, most = self.levels[steps_left], self.levels[steps_left - 1]
        gamma = least + (most - least) * torch.rand(len(x), device=x.device)
        noise = torch.randn_like(reference)
        predicted = self.trained(x, _noised(reference, gamma, noise), gamma)
        return {"loss": F.mse_loss(predicted.float(), noise)}


def _noised(reference: Tensor, gamma: Tensor, noise: Tensor) -> Tensor:
    gamma = gamma[:, None, None, None]
    return gamma * reference + (1 - gamma**2).sqrt() * noise


@torch.no_grad()
def noise_errors(restorer: Restorer, sampler: SamplerConfig, pairs: Batch, seed: int = 0) -> list[float]:
    """The mean squared error of ε at γ_t for t = 1 … T, in the mode that the restorer is in; 1 is what zero would have.

    Args:
        pairs: `x` and `reference`, as `PairBatches` gives them, on any device; the restorer stays on its own.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(restorer.parameters()).device
    errors = []
    for gamma in noise_levels(sampler)[1:]:
        total = 0.0
        for x, reference in _parts(pairs):
            noise = torch.randn(reference.shape, generator=generator)
            level = gamma.expand(len(x))
            predicted = restorer(x.to(device), _noised(reference, level, noise).to(device), level.to(device))
            total += float((predicted.float().cpu() - noise).square().mean((1, 2, 3)).sum())
        errors.append(total / len(pairs["x"]))
    return errors


@dataclass(frozen=True, slots=True)
class Restoration:
    """How near to their references distorted pictures are, and their restorations: PSNR in dB, means over the pictures.

    Attributes:
        distorted_db: x's. A picture that is its own reference is in none of these.
        restored_db: y_0's.
        better: the share of the pictures whose y_0 is nearer than x.
    """

    distorted_db: float
    restored_db: float
    better: float


@torch.no_grad()
def measure_restoration(restorer: Restorer, config: DiffV2IQAConfig, pairs: Batch) -> Restoration:
    """Restores x of `pairs`, [B, 3, S, S], by all T steps, and compares."""
    step = RestorationStep(restorer, config)
    device = next(restorer.parameters()).device
    distorted, restored = [], []
    for x, reference in _parts(pairs):
        y_0 = restore(step, x.to(device), config).y_0.cpu()
        distorted.append(_psnr_db(x, reference))
        restored.append(_psnr_db(y_0, reference))
    before, after = torch.cat(distorted), torch.cat(restored)
    differs = before.isfinite()
    before, after = before[differs], after[differs]
    return Restoration(float(before.mean()), float(after.mean()), float((after > before).float().mean()))


def _parts(pairs: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(*(pairs[name].split(_PICTURES_AT_A_TIME) for name in ("x", "reference")), strict=True)


def _psnr_db(picture: Tensor, reference: Tensor) -> Tensor:
    """[B], infinite where they are the same."""
    return 10 * torch.log10(_PEAK / (picture - reference).square().mean((1, 2, 3)))
