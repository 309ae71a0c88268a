"""Visual difference analysis: how the distorted picture differs from the restored ones (§III-D).

D23 is the freest reading of the paper's text, and is in this module alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.config import PICTURES, DiffV2IQAConfig, Picture
from diffvqa_rt.models.diffv2iqa.attention import TransposedAttention
from diffvqa_rt.models.diffv2iqa.heads import PatchHead, PatchScores


def to_patches(maps: list[Tensor]) -> Tensor:
    """The ResNet's four maps, of sides 2g, g, g/2 and g/4, on the grid of patches, side by side: [B, ΣC, g, g]."""
    half, same, double, quadruple = maps
    return torch.cat(
        [
            F.avg_pool2d(half, 2),
            same,
            F.interpolate(double, scale_factor=2.0, mode="nearest"),
            F.interpolate(quadruple, scale_factor=4.0, mode="nearest"),
        ],
        dim=1,
    )


class DifferenceAnalysis(nn.Module):
    """The VDA branch. Args of `forward`: the ResNet's four maps [4 · V, C_i, …], the pictures in their order."""

    def __init__(self, config: DiffV2IQAConfig, start: float) -> None:
        super().__init__()
        vda = config.vda
        self.roles: tuple[Picture, ...] = (vda.query, vda.key, vda.value)
        self.reduce = nn.Conv2d(sum(vda.map_channels), vda.channels, 1)
        self.attention = TransposedAttention(config.positions, vda.dropout)
        self.head = PatchHead(vda.channels, vda.dropout, start)

    def encode(self, maps: list[Tensor]) -> dict[Picture, Tensor]:
        """E_Res, [V, C_r, P], of each picture (D23)."""
        encoded = self.reduce(to_patches(maps)).flatten(2).unflatten(0, (len(PICTURES), -1))
        return dict(zip(PICTURES, encoded.unbind(0), strict=True))

    def forward(self, maps: list[Tensor]) -> PatchScores:
        encoded = self.encode(maps)
        x = encoded["x"]
        return self.head(self.attention(x, *((x - encoded[picture]).abs() for picture in self.roles)))
