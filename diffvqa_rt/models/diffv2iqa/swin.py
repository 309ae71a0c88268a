"""The small Swin transformer between the VCG's transposed attentions, with MANIQA's numbers (D21).

Liu et al. 2021; [IIGROUP/MANIQA: models/swin.py].
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.diffv2iqa.config import VcgConfig
from diffvqa_rt.models.transformer import TransformerBlock

_LAYERS, _BLOCKS = 2, 2
_LAST_DROP_PATH = 0.1
_SEAM = -100.0


class Windows(NamedTuple):
    """The windows of a grid that is rolled by a shift; each has w² patches, and there are P / w² of them.

    Attributes:
        order: [P] the patch at each place, window by window.
        inverse: [P] each patch's place.
        mask: [P / w², w², w²] added to the scores of a query and a key: −100 across the seam, where rolling has brought
            together what is far apart.
        offsets: [w², w²] the row of the table of relative position biases for each query and key.
    """

    order: Tensor
    inverse: Tensor
    mask: Tensor
    offsets: Tensor


def windows_of(grid: int, window: int, shift: int) -> Windows:
    """The windows of a `grid` × `grid` of patches, rolled up and left by `shift`."""
    # On the CPU even where the network is made without storage and then given a file's weights.
    with torch.device("cpu"):
        along = torch.arange(grid)
        rolled = (along + shift) % grid

        def by_window(values: Tensor) -> Tensor:
            count = grid // window
            return values.reshape(count, window, count, window).transpose(1, 2).reshape(count**2, window**2)

        order = by_window(rolled[:, None] * grid + rolled)
        is_wrapped = rolled < shift
        region = by_window(2 * is_wrapped[:, None].int() + is_wrapped.int())
        mask = _SEAM * (region[:, :, None] != region[:, None, :]).float()
        row, column = torch.arange(window**2) // window, torch.arange(window**2) % window
        down, right = (x[:, None] - x + window - 1 for x in (row, column))
        return Windows(order.flatten(), order.flatten().argsort(), mask, down * (2 * window - 1) + right)


class WindowBias(nn.Module):
    """Learned relative position bias and the seam's mask, one constant of a block: [windows, heads, w², w²]."""

    mask: Tensor
    offsets: Tensor

    def __init__(self, windows: Windows, window: int, heads: int) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(0.02 * torch.randn((2 * window - 1) ** 2, heads))
        self.register_buffer("mask", windows.mask[:, None], persistent=False)
        self.register_buffer("offsets", windows.offsets, persistent=False)

    def forward(self) -> Tensor:
        return self.relative_position_bias_table[self.offsets].permute(2, 0, 1) + self.mask


class WindowAttention(nn.Module):
    """Multi-head attention of patches [V, P, C] inside windows."""

    order: Tensor
    inverse: Tensor

    def __init__(self, channels: int, config: VcgConfig, grid: int, shift: int) -> None:
        super().__init__()
        self.heads = config.swin_heads
        self.patches = config.swin_window**2
        windows = windows_of(grid, config.swin_window, shift)
        # Follow from the sizes: no file of weights has them.
        self.register_buffer("order", windows.order, persistent=False)
        self.register_buffer("inverse", windows.inverse, persistent=False)
        self.bias = WindowBias(windows, config.swin_window, self.heads)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, patches: Tensor) -> Tensor:
        windows = patches.index_select(1, self.order).unflatten(1, (-1, self.patches))
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(2, 3)  # [V, windows, heads, w², C / heads]
            for x in self.qkv(windows).chunk(3, dim=-1)
        )
        # Two products: with a mask ONNX Runtime's fused attention is slower on a CPU, and TensorRT has got it wrong.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.bias()
        attended = (scores.softmax(-1) @ v).transpose(2, 3).flatten(3)
        return self.proj(attended.flatten(1, 2).index_select(1, self.inverse))


class SwinLayer(nn.Module):
    """Blocks, every second with windows shifted by half, then a 3×3 convolution and ReLU: [V, C, g, g] → the same."""

    def __init__(self, channels: int, config: VcgConfig, grid: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential()
        for index, drop_path in enumerate(drop_paths):
            # A single window has no neighbour to reach by a shift.
            shift = config.swin_window // 2 if index % 2 and grid > config.swin_window else 0
            attention = WindowAttention(channels, config, grid, shift)
            self.blocks.append(TransformerBlock(channels, attention, mlp_width=config.swin_mlp, drop_path=drop_path))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        patches = self.blocks(maps.flatten(2).transpose(1, 2))
        return torch.relu(self.conv(patches.transpose(1, 2).reshape(maps.shape)))


class Swin(nn.Module):
    """Maps [V, C, g, g] → the same: u ← scale · layer(u) + u, twice."""

    def __init__(self, channels: int, config: VcgConfig, grid: int) -> None:
        super().__init__()
        self.scale = config.swin_scale
        self.dropout = nn.Dropout(config.dropout)
        count = _LAYERS * _BLOCKS
        rates = [_LAST_DROP_PATH * index / (count - 1) for index in range(count)]
        self.layers = nn.ModuleList(
            SwinLayer(channels, config, grid, rates[start : start + _BLOCKS]) for start in range(0, count, _BLOCKS)
        )

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.dropout(maps)
        for layer in self.layers:
            maps = self.scale * layer(maps) + maps
        return maps
