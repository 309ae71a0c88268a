"""The technical backbone: a Video Swin Tiny with gated relative position biases (SPEC §3).

Liu et al. 2022 (Video Swin); Wu et al. 2022 (FAST-VQA, the gate); names of DOVER's state dict.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.aigc_vqa.config import PATCH_SIZE, AigcVqaConfig
from diffvqa_rt.models.aigc_vqa.convolutions import PatchConv3d, Size
from diffvqa_rt.models.aigc_vqa.encoder import EncoderBlock, encoder_blocks
from diffvqa_rt.models.transformer import TransformerBlock

_MLP_RATIO = 4
_APART = -100.0
# Of the stages; in the last a token is a whole mini-patch, and DOVER's has no second table.
_HAS_GATE = (True, True, True, False)


class Windows(NamedTuple):
    """The windows of a grid that is rolled by a shift: W of them, of N tokens each; P = W · N.

    Attributes:
        order: [P] the token at each place, window by window.
        inverse: [P] each token's place.
        regions: [W, N] a number for what lies together in the grid; rolling brings several of them into one window.
        mini_patches: [W, N, 2] φ, the row and the column of the mini-patch that a token is of.
        offsets: [N, N] the row of the tables for each query and key.
    """

    order: Tensor
    inverse: Tensor
    regions: Tensor
    mini_patches: Tensor
    offsets: Tensor


def windows_of(grid: Size, most: Size, is_shifted: bool, mini_patches: int) -> Windows:
    """The windows of a grid of tokens.

    Args:
        most: a window's size, where the grid is as large.
        is_shifted: whether the grid is rolled by half a window, along the axes that have several.
        mini_patches: G, on a side of the view.
    """
    window = tuple(min(side, size) for side, size in zip(grid, most, strict=True))
    shift = tuple(size // 2 if is_shifted and side > size else 0 for side, size in zip(grid, most, strict=True))
    counts = [side // size for side, size in zip(grid, window, strict=True)]

    def by_window(along: list[Tensor]) -> Tensor:
        """Numbers along each axis → [W, N, 3]."""
        values = torch.stack(torch.meshgrid(*along, indexing="ij"), dim=-1)
        split = values.reshape(counts[0], window[0], counts[1], window[1], counts[2], window[2], 3)
        return split.permute(0, 2, 4, 1, 3, 5, 6).flatten(0, 2).flatten(1, 3)

    # On the CPU even where the network is made without storage and then given a file's weights.
    with torch.device("cpu"):
        places = [torch.arange(side) for side in grid]
        tokens = by_window([(place + by) % side for place, by, side in zip(places, shift, grid, strict=True)])
        order = ((tokens[..., 0] * grid[1] + tokens[..., 1]) * grid[2] + tokens[..., 2]).flatten()
        regions = by_window(
            [
                (place >= side - size).long() + (place >= side - by).long()
                for place, by, size, side in zip(places, shift, window, grid, strict=True)
            ]
        )
        sides = torch.tensor(grid[1:])
        inside = torch.cartesian_prod(*(torch.arange(size) for size in window))
        down, right, along = (inside[:, None] - inside + torch.tensor(most) - 1).unbind(-1)
        return Windows(
            order=order,
            inverse=order.argsort(),
            regions=(regions[..., 0] * 3 + regions[..., 1]) * 3 + regions[..., 2],
            mini_patches=tokens[..., 1:] * mini_patches // sides,
            offsets=(down * (2 * most[1] - 1) + right) * (2 * most[2] - 1) + along,
        )


class AttentionInWindows(nn.Module):
    """Multi-head attention of tokens [V, P, C] inside windows, with what `bias` gives added to the scores."""

    order: Tensor
    inverse: Tensor

    def __init__(self, heads: int, order: Tensor, inverse: Tensor, window_tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.window_tokens = window_tokens
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("inverse", inverse, persistent=False)
        self.qkv: nn.Linear
        self.proj: nn.Linear

    def bias(self) -> Tensor:
        """The bias with the mask, [W or 1, heads, N, N]."""
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Tensor:
        windows = tokens.to(self.qkv.weight.dtype).index_select(1, self.order).unflatten(1, (-1, self.window_tokens))
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(2, 3)  # [V, W, heads, N, C / heads]
            for x in self.qkv(windows).chunk(3, dim=-1)
        )
        # Two products: with a mask the runtimes' fused attention fails or is slower (SPEC §11).
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.bias()
        attended = (scores.float().softmax(-1).to(v.dtype) @ v).transpose(2, 3).flatten(3)
        return self.proj(attended.flatten(1, 2).index_select(1, self.inverse))


class WindowAttention(AttentionInWindows):
    """Attention inside windows with γ·R + (1 − γ)·F for a bias, and −100 between regions.

    γ is the distance |Δφ_h| + |Δφ_w| between the mini-patches of a query and a key, and not a gate of 0 or 1.
    """

    regions: Tensor
    mini_patches: Tensor
    offsets: Tensor

    def __init__(self, width: int, heads: int, most: Size, windows: Windows, *, has_gate: bool) -> None:
        super().__init__(heads, windows.order, windows.inverse, len(windows.offsets))
        rows = (2 * most[0] - 1) * (2 * most[1] - 1) * (2 * most[2] - 1)
        self.relative_position_bias_table = nn.Parameter(0.02 * torch.randn(rows, heads))
        self.fragment_position_bias_table = nn.Parameter(0.02 * torch.randn(rows, heads)) if has_gate else None
        # Follow from the sizes: no file of weights has them.
        for name in ("regions", "mini_patches", "offsets"):
            self.register_buffer(name, getattr(windows, name), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def bias(self) -> Tensor:
        bias = self._rows_of(self.relative_position_bias_table)
        if self.fragment_position_bias_table is not None:
            steps = self.mini_patches[:, :, None] - self.mini_patches[:, None]
            distance = steps.abs().sum(-1)[:, None].to(bias.dtype)
            bias = distance * bias + (1 - distance) * self._rows_of(self.fragment_position_bias_table)
        is_apart = self.regions[:, :, None] != self.regions[:, None]
        return bias + _APART * is_apart[:, None].to(bias.dtype)

    def _rows_of(self, table: Tensor) -> Tensor:
        return table[self.offsets].permute(2, 0, 1)


class FoldedWindowAttention(AttentionInWindows):
    """Another's attention with its bias as a constant in the place of the tables. Shares its linear layers."""

    constant: Tensor

    @torch.no_grad()
    def __init__(self, attention: WindowAttention) -> None:
        super().__init__(attention.heads, attention.order, attention.inverse, attention.window_tokens)
        self.register_buffer("constant", attention.bias(), persistent=False)
        self.qkv = attention.qkv
        self.proj = attention.proj

    def bias(self) -> Tensor:
        return self.constant


class PatchEmbedding3d(nn.Module):
    """Frames [V, T, 3, S, S] → tokens [V, P, C], frame by frame and row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = PatchConv3d(3, width, PATCH_SIZE)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        return self.norm(self.proj(frames.permute(0, 1, 3, 4, 2)).flatten(1, 3))


class PatchMerging(nn.Module):
    """The four tokens of a square of a frame become one of twice the width: [V, P, C] → [V, P/4, 2C]."""

    def __init__(self, width: int, grid: Size) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        depth, rows, columns = self.grid
        squares = tokens.unflatten(1, (depth, rows // 2, 2, columns // 2, 2))
        # Column before row: (0, 0), (1, 0), (0, 1), (1, 1).
        joined = squares.permute(0, 1, 2, 4, 5, 3, 6).flatten(4).flatten(1, 3)
        return self.reduction(self.norm(joined).to(self.reduction.weight.dtype)).to(tokens.dtype)


class SwinStage(nn.Module):
    """Blocks, every second with shifted windows, then patch merging, but after the last stage."""

    def __init__(self, config: AigcVqaConfig, stage: int, drop_paths: list[float]) -> None:
        super().__init__()
        swin, grid = config.swin, config.stage_grids[stage]
        width, heads = swin.widths[stage], swin.heads[stage]
        self.blocks = nn.ModuleList()
        for index, drop_path in enumerate(drop_paths):
            windows = windows_of(grid, swin.window, index % 2 == 1, config.grid)
            attention = WindowAttention(width, heads, swin.window, windows, has_gate=_HAS_GATE[stage])
            self.blocks.append(TransformerBlock(width, attention, mlp_width=_MLP_RATIO * width, drop_path=drop_path))
        is_last = stage == len(config.stage_grids) - 1
        self.downsample = None if is_last else PatchMerging(width, grid)

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens if self.downsample is None else self.downsample(tokens)


class SwinBackbone(nn.Module):
    """Frames [V, T, 3, S, S] → tokens [V, P, 8C], one a mini-patch of two frames at the paper's sizes."""

    def __init__(self, config: AigcVqaConfig) -> None:
        super().__init__()
        swin = config.swin
        self.patch_embed = PatchEmbedding3d(swin.width)
        count = sum(swin.depths)
        rates = iter([swin.drop_path * index / max(count - 1, 1) for index in range(count)])
        self.layers = nn.ModuleList(
            SwinStage(config, stage, list(itertools.islice(rates, depth))) for stage, depth in enumerate(swin.depths)
        )
        self.norm = nn.LayerNorm(swin.widths[-1])

    def encoder_blocks(self) -> list[EncoderBlock]:
        before: nn.Module | None = self.patch_embed
        found = []
        for layer in self.layers:
            assert isinstance(layer, SwinStage) and before is not None
            found += encoder_blocks((before,), layer.blocks)
            before = layer.downsample
        return found

    def forward(self, frames: Tensor) -> Tensor:
        tokens = self.patch_embed(frames)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)
