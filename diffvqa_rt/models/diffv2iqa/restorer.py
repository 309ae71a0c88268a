"""The restoration network ε_θ: SR3's U-Net (§III-B-2), with BatchNorm in place of GroupNorm (D10).

The noise level reaches the U-Net as one row of shifts for all its residual blocks. They arrive as a tensor, so the same
U-Net runs from a live noise level in training and from a table in the engine.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.config import ATTENTION_LEVEL, RestorerConfig
from diffvqa_rt.models.blocks import Downsample, ResnetBlock, Upsample

MakeNorm = Callable[[int], nn.Module]


class Attention(nn.Module):
    """Single-head self-attention over the positions of x [B, C, h, w], after a norm; x + W_o softmax(qᵀk/√C) v.

    Two products and a softmax, since no fused kernel takes a head of 512 channels.
    """

    def __init__(self, channels: int, norm: MakeNorm) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)
        scores = (q * x.shape[1] ** -0.5).transpose(1, 2) @ k
        # In float32 whatever the network runs in: a half-precision runtime may sum the exponentials in half precision.
        attention = scores.float().softmax(dim=2).to(x.dtype)
        return x + self.out((v @ attention.transpose(1, 2)).reshape(x.shape))


class Block(nn.Module):
    """A residual block, with attention after it where the level has that."""

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: MakeNorm, dropout: float, has_attention: bool
    ) -> None:
        super().__init__()
        self.residual = ResnetBlock(in_channels, out_channels, norm=norm, dropout=dropout)
        self.attention = Attention(out_channels, norm) if has_attention else nn.Identity()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.attention(self.residual(x, shift))


class NoiseLevel(nn.Module):
    """The shifts of all residual blocks, W_l e(γ), side by side; without an activation between, as SR3 (D9).

    Args of `forward`: γ [B], the noise level √ᾱ. Returns [B, sum of the blocks' widths].
    """

    def __init__(self, width: int, shifts: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, width)
        self.to_shifts = nn.Linear(width, shifts)

    def forward(self, gamma: Tensor) -> Tensor:
        half = self.linear_1.in_features // 2
        frequencies = 10000.0 ** (-torch.arange(half, dtype=gamma.dtype, device=gamma.device) / half)
        angles = gamma[:, None] * frequencies
        encoding = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.to_shifts(self.linear_2(F.silu(self.linear_1(encoding))))


class UNet(nn.Module):
    """The U-Net, given the noise level's shifts.

    `downs`, `mid` and `ups` are SR3's own lists, `downs` without its first convolution, which is `conv_in`.

    Args of `forward`: x and y [B, 3, H, W] in about [−1, 1], H and W multiples of the halvings; shifts [B or 1, sum of
    `shift_widths`]. Returns ε [B, 3, H, W].
    """

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        norm: MakeNorm = (
            nn.BatchNorm2d if config.norm == "batch" else functools.partial(nn.GroupNorm, config.norm_groups)
        )
        block = functools.partial(Block, norm=norm, dropout=config.dropout)
        deepest = len(config.channels) - 1
        self.conv_in = nn.Conv2d(6, config.channels[0], 3, padding=1)
        width, skips = config.channels[0], [config.channels[0]]
        self.downs = nn.ModuleList()
        for level, channels in enumerate(config.channels):
            for _ in range(config.blocks):
                self.downs.append(block(width, channels, has_attention=level == ATTENTION_LEVEL))
                width = channels
                skips.append(width)
            if level < deepest:
                self.downs.append(Downsample(width))
                skips.append(width)
        self.mid = nn.ModuleList(block(width, width, has_attention=is_first) for is_first in (True, False))
        self.ups = nn.ModuleList()
        for level, channels in reversed(list(enumerate(config.channels))):
            for _ in range(config.blocks + 1):
                self.ups.append(block(width + skips.pop(), channels, has_attention=level == ATTENTION_LEVEL))
                width = channels
            if level > 0:
                self.ups.append(Upsample(width))
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)
        self.shift_widths = [block.residual.conv1.out_channels for block in self.blocks()]

    def blocks(self) -> Iterator[Block]:
        """The residual blocks, in the order in which they run."""
        for layers in (self.downs, self.mid, self.ups):
            yield from (layer for layer in layers if isinstance(layer, Block))

    def forward(self, x: Tensor, y: Tensor, shifts: Tensor) -> Tensor:
        # `conv_in` and `conv_out` have float32 at their borders; the blocks may run in half precision.
        dtype = next(self.mid.parameters()).dtype
        rows = iter(shifts.to(dtype).split(self.shift_widths, dim=1))
        hidden = self.conv_in(torch.cat([x, y], dim=1)).to(dtype)
        skips = [hidden]
        for layer in self.downs:
            hidden = layer(hidden, next(rows)) if isinstance(layer, Block) else layer(hidden)
            skips.append(hidden)
        for layer in self.mid:
            hidden = layer(hidden, next(rows))
        for layer in self.ups:
            if isinstance(layer, Block):
                hidden = layer(torch.cat([hidden, skips.pop()], dim=1), next(rows))
            else:
                hidden = layer(hidden)
        return self.conv_out(F.silu(self.norm_out(hidden.to(self.conv_out.weight.dtype))))


class Restorer(nn.Module):
    """ε_θ([x, y_t], γ): the noise in y_t, given the distorted picture x.

    Args of `forward`: x, y [B, 3, H, W] in about [−1, 1], H and W multiples of the halvings; gamma [B], the noise level
    √ᾱ of each picture. Returns ε [B, 3, H, W].
    """

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        self.unet = UNet(config)
        self.noise_level = NoiseLevel(config.channels[0], sum(self.unet.shift_widths))

    def forward(self, x: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
        return self.unet(x, y, self.noise_level(gamma))
