"""The scale of an encoder's pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB from 0 to 1, as torchvision has them."""


class PixelScaling(nn.Module):
    """Maps pictures [..., 3, H, W] from [−1, 1] to (0.5 x + 0.5 − mean) / std, the scale that an encoder learned.

    The factors are no weights, and no checkpoint has them.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # On the CPU even where the network is made without storage and then given a file's weights.
        means, stds = (torch.tensor(values, dtype=torch.float64, device="cpu")[:, None, None] for values in (mean, std))
        self.is_identity = bool((means == 0.5).all() and (stds == 0.5).all())
        self.register_buffer("scale", (0.5 / stds).float(), persistent=False)
        self.register_buffer("shift", ((0.5 - means) / stds).float(), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures if self.is_identity else pictures * self.scale + self.shift
