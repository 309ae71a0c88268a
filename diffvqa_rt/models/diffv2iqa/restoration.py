"""The restoration of a picture (§III-B): the sampler's steps from noise, given the distorted picture."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig
from diffvqa_rt.models.diffv2iqa.restorer import Attention, Restorer, UNet
from diffvqa_rt.models.sampling import SamplerStep
from diffvqa_rt.sampler import alphas_cumprod, timesteps


class Restored(NamedTuple):
    """The restored picture y_0, and the two noisy ones that are kept on the way to it; [B, 3, S, S] each."""

    y_0: Tensor
    y_t1: Tensor
    y_t2: Tensor


class RestorationStep(SamplerStep):
    """One of the T steps, with all that depends on the step alone in tables. The `restoration_step` engine.

    Args of `forward`: y, x [B, 3, S, S] float32; step [1] int64, 0 … T−1. Step 0 makes its y from the noise table and
    does not read y: the start is pure noise, and x enters as the condition alone. Returns y_next, of the same shape; at
    the last step it is y_0.

    Args:
        restorer: stays as it is, in the mode that it is in. Its U-Net is copied, with the BatchNorms folded that can
            be (`fold_norms`); the copy is in evaluation mode.
    """

    shifts: Tensor

    @torch.no_grad()
    def __init__(self, restorer: Restorer, config: DiffV2IQAConfig) -> None:
        weight = restorer.unet.conv_in.weight
        super().__init__(config.sampler, (3, config.view_size, config.view_size), weight.device)
        self.unet = copy.deepcopy(restorer.unet).requires_grad_(False)
        gammas = torch.from_numpy(alphas_cumprod(config.sampler)[timesteps(config.sampler)] ** 0.5).to(weight)
        shifts = restorer.noise_level(gammas)
        self.register_buffer("shifts", fold_norms(self.unet, shifts) if config.restorer.norm == "batch" else shifts)
        self.eval()

    def forward(self, y: Tensor, x: Tensor, step: Tensor) -> tuple[Tensor]:
        y = torch.where(step == 0, self.initial_noise, y)
        epsilon = self.unet(x, y, self.shifts.index_select(0, step))
        return (self.advance(y, epsilon.float(), step),)


def fold_norms(unet: UNet, shifts: Tensor) -> Tensor:
    """Folds BatchNorms into what stands before or after them, in place and exactly (SPEC §12).

    A residual block's second norm goes into the convolution and the shift before it; an attention's into the 1×1
    convolution after it, which has no border. The others have a SiLU between them and any convolution: they become
    plain scales and offsets, with the statistics 0 and 1, which half precision keeps.

    Args:
        shifts: [steps, sum of the blocks' widths], W_l e(γ).

    Returns:
        The shifts of the folded U-Net.
    """
    rows = []
    for block, row in zip(unet.blocks(), shifts.split(unet.shift_widths, dim=1), strict=True):
        residual = block.residual
        residual.norm1 = _plain(residual.norm1)
        scale, offset = _affine_of(residual.norm2)
        residual.norm2 = nn.Identity()
        rows.append((scale * (row + residual.conv1.bias) + offset).to(row))
        residual.conv1.weight.copy_(scale[:, None, None, None] * residual.conv1.weight)
        residual.conv1.bias = None
        if isinstance(block.attention, Attention):
            _fold_into_qkv(block.attention)
    unet.norm_out = _plain(unet.norm_out)
    return torch.cat(rows, dim=1)


def _fold_into_qkv(attention: Attention) -> None:
    scale, offset = _affine_of(attention.norm)
    attention.norm = nn.Identity()
    weight = attention.qkv.weight
    bias = (weight[:, :, 0, 0] * offset).sum(dim=1)
    weight.copy_(weight * scale[:, None, None])
    attention.qkv.bias = nn.Parameter(bias.to(weight), requires_grad=False)


def _plain(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """The same scale and offset with the statistics 0 and 1, which a new BatchNorm has."""
    scale, offset = _affine_of(norm)
    plain = nn.BatchNorm2d(norm.num_features, eps=0.0).to(norm.weight).requires_grad_(False)
    plain.weight.copy_(scale)
    plain.bias.copy_(offset)
    return plain


def _affine_of(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The (scale, offset) that a BatchNorm in evaluation mode is, [C] float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def restore(
    step: Callable[[Tensor, Tensor, Tensor], tuple[Tensor]], pictures: Tensor, config: DiffV2IQAConfig
) -> Restored:
    """Plays all T steps for `pictures` x, [B, 3, S, S] in [−1, 1].

    Args:
        step: a `RestorationStep`, or what has its arguments.
        config: the sampler's steps, and which of the pictures are kept.
    """
    y, kept = torch.zeros_like(pictures), {}
    for left in reversed(range(config.sampler.steps)):
        index = config.sampler.steps - 1 - left
        (y,) = step(y, pictures, torch.tensor([index], device=pictures.device))
        if left in (0, *config.kept):
            kept[left] = y
    return Restored(kept[0], *(kept[left] for left in config.kept))
