"""3-D convolutions as 2-D ones: exact, several times faster on a CPU, and known to every runtime (SPEC §11).

All of them take and give frames with the channels last, [V, D, h, w, C]. Their weights keep the shapes of
`nn.Conv3d`, which published checkpoints have.
"""

from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int, int]
"""Frames, rows, columns."""


class PatchConv3d(nn.Conv3d):
    """A convolution whose kernel is its stride: [V, D, h, w, C] → [V, D/d, h/kh, w/kw, C′].

    The d frames of a kernel become channels of one picture.
    """

    def __init__(self, channels: int, out_channels: int, kernel: Size) -> None:
        super().__init__(channels, out_channels, kernel, stride=kernel)

    def forward(self, frames: Tensor) -> Tensor:
        depth, rows, columns = self.kernel_size
        _, count, height, width, channels = frames.shape
        pictures = frames.to(self.weight.dtype).permute(0, 1, 4, 2, 3).reshape(-1, depth * channels, height, width)
        weight = self.weight.transpose(1, 2).flatten(1, 2)
        maps = F.conv2d(pictures, weight, self.bias, stride=(rows, columns))
        return maps.unflatten(0, (-1, count // depth)).permute(0, 1, 3, 4, 2)


class DepthwiseConv3d(nn.Conv3d):
    """A depthwise convolution of stride 1 with zeros around it: [V, D, h, w, C] → the same shape.

    Each of its temporal taps is a 2-D one, or a product where its kernel is one pixel.
    """

    def __init__(self, channels: int, kernel: Size) -> None:
        depth, rows, columns = (size // 2 for size in kernel)
        super().__init__(channels, channels, kernel, padding=(depth, rows, columns), groups=channels)

    def forward(self, frames: Tensor) -> Tensor:
        depth, rows, columns = self.kernel_size
        frames = frames.to(self.weight.dtype)
        assert self.bias is not None
        if rows == columns == 1:
            return _sum_of_taps([frames * self.weight[:, 0, tap, 0, 0] for tap in range(depth)]) + self.bias
        maps = frames.flatten(0, 1).permute(0, 3, 1, 2)
        parts = []
        for tap in range(depth):
            bias = self.bias if tap == depth // 2 else None  # once
            part = F.conv2d(maps, self.weight[:, :, tap], bias, padding=self.padding[1:], groups=self.groups)
            parts.append(part.unflatten(0, (-1, frames.shape[1])))
        return _sum_of_taps(parts).permute(0, 1, 3, 4, 2)


class PointwiseConv3d(nn.Conv3d):
    """A convolution of one pixel of one frame, which is a linear layer: [..., C] → [..., C′]."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens.to(self.weight.dtype), self.weight.flatten(1), self.bias)


def _sum_of_taps(parts: list[Tensor]) -> Tensor:
    """Σ of what each temporal tap gives, [V, D, ...], at the frames that it is for; nothing beyond both ends."""
    middle = len(parts) // 2
    total = parts[middle]
    for tap, part in enumerate(parts):
        later = tap - middle  # the frame that this tap reads, counted from that which it is for
        if 0 < abs(later) < part.shape[1]:
            kept = part[:, later:] if later > 0 else part[:, :later]
            ends = (0, later) if later > 0 else (-later, 0)
            total = total + F.pad(kept, (0, 0) * (part.ndim - 2) + ends)
    return total
