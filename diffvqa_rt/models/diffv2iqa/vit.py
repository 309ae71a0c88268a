"""The frozen ViT of the VCG, cut after the last block that is read, under timm's state-dict names (D16, D17)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.diffv2iqa.config import PATCH_SIZE, Picture, VitConfig
from diffvqa_rt.models.pixels import PixelScaling
from diffvqa_rt.models.transformer import PatchEmbedding, SelfAttention, TransformerBlock

_MLP_RATIO = 4

Blocks = Mapping[Picture, tuple[int, ...]]
"""The blocks that each picture is read from, counted from 0."""


class ViT(nn.Module):
    """The first blocks of a ViT over pictures of `grid` × `grid` patches; no final norm, no head."""

    def __init__(self, config: VitConfig, grid: int, blocks: int) -> None:
        super().__init__()
        self.pixels = PixelScaling(config.mean, config.std)
        self.patch_embed = PatchEmbedding(config.width, PATCH_SIZE)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + grid**2, config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                config.width,
                SelfAttention(config.width, config.heads),
                mlp_width=_MLP_RATIO * config.width,
                eps=config.eps,
            )
            for _ in range(blocks)
        )

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
