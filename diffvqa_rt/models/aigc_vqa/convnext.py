"""The aesthetic backbone: ConvNeXt-Tiny inflated to video (SPEC §4).

Liu et al. 2022; names of DOVER's state dict.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.aigc_vqa.config import PATCH_SIZE, ConvNextConfig
from diffvqa_rt.models.aigc_vqa.convolutions import DepthwiseConv3d, PatchConv3d
from diffvqa_rt.models.aigc_vqa.encoder import EncoderBlock, encoder_blocks

_EPS = 1e-6
_RATIO = 4
_KERNEL = 7
_TEMPORAL_KERNELS = (1, 3, 1)
"""Of the blocks of a stage, over and over."""
_DOWNSAMPLING = (1, 2, 2)
_GAMMA = 1e-6


class ConvNextBlock(nn.Module):
    """A depthwise convolution and an MLP beside a shortcut: frames [V, D, h, w, C] → the same."""

    def __init__(self, width: int, temporal_kernel: int) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv3d(width, (temporal_kernel, _KERNEL, _KERNEL))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.pwconv1 = nn.Linear(width, _RATIO * width)
        self.pwconv2 = nn.Linear(_RATIO * width, width)
        self.gamma = nn.Parameter(torch.full((width,), _GAMMA))

    def forward(self, frames: Tensor) -> Tensor:
        hidden = self.norm(self.dwconv(frames).to(self.norm.weight.dtype))
        hidden = self.pwconv2(F.gelu(self.pwconv1(hidden.to(self.pwconv1.weight.dtype))))
        return frames + self.gamma * hidden


class ConvNextBackbone(nn.Module):
    """Frames [V, T, 3, S, S] → positions [V, D, S/32, S/32, C₃]; nothing is pooled."""

    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__()
        widths = config.widths
        stem = nn.Sequential(PatchConv3d(3, widths[0], PATCH_SIZE), nn.LayerNorm(widths[0], eps=_EPS))
        self.downsample_layers = nn.ModuleList([stem])
        for width, next_width in pairwise(widths):
            norm, conv = nn.LayerNorm(width, eps=_EPS), PatchConv3d(width, next_width, _DOWNSAMPLING)
            self.downsample_layers.append(nn.Sequential(norm, conv))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(ConvNextBlock(width, _TEMPORAL_KERNELS[index % len(_TEMPORAL_KERNELS)]) for index in range(depth))
            )
            for width, depth in zip(widths, config.depths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=_EPS)

    def encoder_blocks(self) -> list[EncoderBlock]:
        found = []
        for before, stage in zip(self.downsample_layers, self.stages, strict=True):
            found += encoder_blocks((before,), stage.children())
        return found

    def forward(self, frames: Tensor) -> Tensor:
        positions = frames.permute(0, 1, 3, 4, 2)
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            positions = stage(downsample(positions))
        return self.norm(positions)
