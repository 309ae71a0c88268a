"""The ST-Adapter between vision and text encoder (SPEC §5, eq. 5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.aigc_vqa.config import AdapterConfig
from diffvqa_rt.models.aigc_vqa.convolutions import DepthwiseConv3d


class Adapter(nn.Module):
    """W_up GELU(conv(W_down r)) + r for the patches of all frames; class tokens pass: [V, T, 1 + g², C] → the same.

    Its convolution and its biases start at 0, with which it is the identity.
    """

    def __init__(self, width: int, grid: int, config: AdapterConfig) -> None:
        super().__init__()
        self.grid = grid
        self.down = nn.Linear(width, config.bottleneck)
        self.conv = DepthwiseConv3d(config.bottleneck, config.kernel)
        self.up = nn.Linear(config.bottleneck, width)
        self.start()

    def start(self) -> None:
        """Makes it the identity, as it is before training."""
        for parameter in (self.down.bias, self.conv.weight, self.conv.bias, self.up.bias):
            assert parameter is not None
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        class_tokens, patches = tokens[:, :, :1], tokens[:, :, 1:]
        hidden = self.down(patches.to(self.down.weight.dtype)).unflatten(2, (self.grid, self.grid))
        hidden = F.gelu(self.conv(hidden)).flatten(2, 3)
        return torch.cat([class_tokens, patches + self.up(hidden.to(self.up.weight.dtype))], dim=2)
