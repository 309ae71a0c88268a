"""The convolutional blocks of every metric's U-Net and autoencoder, under diffusers' state-dict names."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


class ResnetBlock(nn.Module):
    """Two 3×3 convolutions, each after a norm and SiLU, and a shortcut; diffusers' `ResnetBlock2D`, SR3's too.

    Args:
        norm: channels → the norm.
        time_width: of what `time_emb_proj` takes; None where the block's user makes the shifts, or has none.
        dropout: before the second convolution.

    Args of `forward`: x [B, in_channels, h, w]; time_shift [B or 1, out_channels], or None. Returns
    [B, out_channels, h, w].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Callable[[int], nn.Module],
        time_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if time_width is not None:
            self.time_emb_proj = nn.Linear(time_width, out_channels)
        self.norm2 = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time_shift: Tensor | None = None) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        if time_shift is not None:
            hidden = hidden + time_shift[:, :, None, None]
        hidden = self.conv2(self.dropout(F.silu(self.norm2(hidden))))
        return self.conv_shortcut(x) + hidden


class Downsample(nn.Module):
    """3×3 convolution of stride 2. The VAE pads below and on the right only (`is_asymmetric`), as it was trained."""

    def __init__(self, channels: int, *, is_asymmetric: bool = False) -> None:
        super().__init__()
        self.is_asymmetric = is_asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if is_asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.is_asymmetric else x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
