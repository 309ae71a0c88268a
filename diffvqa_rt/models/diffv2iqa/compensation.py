"""Visual compensation guidance: what the restored pictures add to the ViT's maps of the distorted one (§III-C)."""

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.diffv2iqa.config import PICTURES, DiffV2IQAConfig, Picture
from diffvqa_rt.models.diffv2iqa.attention import TransposedAttention
from diffvqa_rt.models.diffv2iqa.heads import PatchHead, PatchScores
from diffvqa_rt.models.diffv2iqa.swin import Swin

_ATTENTIONS = 2


class CompensationGuidance(nn.Module):
    """The VCG branch. Args of `forward`: the ViT's maps [V, P, width] of each picture, as `config.vcg.blocks` says."""

    def __init__(self, config: DiffV2IQAConfig, start: float) -> None:
        super().__init__()
        vcg, self.grid = config.vcg, config.grid
        embedding = 0.02 * torch.randn(len(PICTURES), vcg.embedding_width)
        if vcg.has_noise_embedding:
            self.noise_embedding = nn.Parameter(embedding)
        else:
            zeros = torch.zeros(embedding.shape, device="cpu")
            self.register_buffer("noise_embedding", zeros, persistent=False)

        def attentions() -> nn.ModuleList:
            return nn.ModuleList(TransposedAttention(config.positions, vcg.dropout) for _ in range(_ATTENTIONS))

        wide, narrow = vcg.swin_channels
        self.attentions1 = attentions()
        # No norm or activation between them (D20).
        self.reduce1 = nn.Sequential(
            nn.Conv2d(config.fused_channels, vcg.reduction[0], 1), nn.Conv2d(*vcg.reduction, 1)
        )
        self.swin1 = Swin(wide, vcg, self.grid)
        self.attentions2 = attentions()
        self.reduce2 = nn.Conv2d(wide, narrow, 1)
        self.swin2 = Swin(narrow, vcg, self.grid)
        self.head = PatchHead(narrow, vcg.dropout, start)

    def fuse(self, maps: dict[Picture, list[Tensor]]) -> Tensor:
        """Z [V, channels, P]: each picture's maps in turn, and after them its row of E, the same at every position."""
        parts = []
        for picture, row in zip(PICTURES, self.noise_embedding, strict=True):
            views, positions, _ = maps[picture][0].shape
            parts += [*maps[picture], row.expand(views, positions, -1)]
        return torch.cat(parts, dim=2).transpose(1, 2)

    def forward(self, maps: dict[Picture, list[Tensor]]) -> PatchScores:
        z = self.fuse(maps)
        for attention in self.attentions1:
            z = attention(z, z, z, z)
        u = self.swin1(self.reduce1(z.unflatten(2, (self.grid, self.grid)))).flatten(2)
        for attention in self.attentions2:
            u = attention(u, u, u, u)
        return self.head(self.swin2(self.reduce2(u.unflatten(2, (self.grid, self.grid)))).flatten(2))
