"""The frozen ViT of the VCG, cut after the last block that is read, under timm's state-dict names (D16, D17)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.config import PATCH_SIZE, Picture, VitConfig
from diffvqa_rt.models.diffv2iqa.attention import attend
from diffvqa_rt.models.diffv2iqa.pixels import PixelScaling

_MLP_RATIO = 4

Blocks = Mapping[Picture, tuple[int, ...]]
"""The blocks that each picture is read from, counted from 0."""


class PatchEmbedding(nn.Module):
    """Pictures [B, 3, S, S] → one token a patch, [B, P, width], row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.proj(pictures).flatten(2).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head attention over the tokens [B, L, width] of a picture."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self.qkv(tokens).chunk(3, dim=-1)
        return self.proj(attend(queries, keys, values, self.heads))


class Mlp(nn.Module):
    """Two layers with GELU (erf) between them."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner_width)
        self.fc2 = nn.Linear(inner_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.attn = SelfAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = Mlp(config.width, _MLP_RATIO * config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ViT(nn.Module):
    """The first blocks of a ViT over pictures of `grid` × `grid` patches; no final norm, no head."""

    def __init__(self, config: VitConfig, grid: int, blocks: int) -> None:
        super().__init__()
        self.pixels = PixelScaling(config.mean, config.std)
        self.patch_embed = PatchEmbedding(config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + grid**2, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(blocks))

    def embed(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, S, S] in [−1, 1] → the class token and the patches, [B, 1 + P, width]."""
        patches = self.patch_embed(self.pixels(pictures))
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed

    def forward(self, pictures: Mapping[Picture, Tensor], blocks: Blocks) -> dict[Picture, list[Tensor]]:
        """The patches [V, P, width] after those blocks of each picture [V, 3, S, S], in the order in which `blocks` is.

        All pictures go through a block together, and a picture leaves after the last block that it is read from: 37
        of 40 passes are left at the paper's blocks.
        """
        staying = sorted(blocks, key=lambda picture: max(blocks[picture]), reverse=True)
        tokens = self.embed(torch.cat([pictures[picture] for picture in staying]))
        read: dict[tuple[Picture, int], Tensor] = {}
        for index, block in enumerate(self.blocks):
            # The pictures on an axis of their own: its size is static, as the batch's is not.
            split = block(tokens).unflatten(0, (len(staying), -1))
            for picture, patches in zip(staying, split[:, :, 1:].unbind(0), strict=True):
                read[picture, index] = patches
            staying = [picture for picture in staying if max(blocks[picture]) > index]
            if not staying:
                break
            tokens = split[: len(staying)].flatten(0, 1)
        return {picture: [read[picture, index] for index in blocks[picture]] for picture in blocks}
