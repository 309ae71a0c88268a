"""From diffusion features to one vector a video: DFF, TDM and FFF (paper §3.3)."""

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        # Standardises over the training set, not over the frame: a frame's own contrast is a cue to its quality.
        nn.BatchNorm2d(out_channels),
        nn.GELU(),
    )


class DimensionAdjustment(nn.Sequential):
    """One scale of F_MS to `out_channels`, its side divided by `reduction` (1, 2 or 4)."""

    def __init__(self, in_channels: int, out_channels: int, reduction: int) -> None:
        halvings = reduction.bit_length() - 1
        super().__init__(
            _convolution(in_channels, out_channels, 1),
            *(_convolution(out_channels, out_channels, 3, stride=2) for _ in range(halvings)),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // 16, 4)
        self.excite = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(x.mean(dim=(2, 3)))[:, :, None, None]


class SpatialAttention(nn.Module):
    """CBAM's spatial half (Woo et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        statistics = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(statistics))


class DiffusionFeatureFusion(nn.Module):
    """DFF. Args of `forward`: F_Latent [B, 4, h, h] and F_MS, coarse to fine. Returns F_DFF [B, C_f, h/4, h/4]."""

    def __init__(self, config: DiffVQAConfig) -> None:
        super().__init__()
        channels = config.head.feature_channels
        side = config.latent_size // 4
        self.adjust = nn.ModuleList(
            DimensionAdjustment(width, channels, height // side) for width, height, _ in config.feature_shapes
        )
        # Space to depth keeps every value of the latent, where pooling would blur what the crop is there to show.
        self.reduce_latent = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(16 * config.unet.latent_channels, channels, 1)
        )
        total = channels * (len(self.adjust) + 1)
        self.channel_attention = ChannelAttention(total)
        self.spatial_attention = SpatialAttention()
        self.project = nn.Conv2d(total, channels, 1)

    def forward(self, latent: Tensor, features: list[Tensor]) -> Tensor:
        scales = [adjust(feature) for adjust, feature in zip(self.adjust, features, strict=True)]
        joined = torch.cat([*scales, self.reduce_latent(latent)], dim=1)
        return self.project(self.spatial_attention(self.channel_attention(joined)))


class TemporalDifference(nn.Module):
    """TDM. F_DFF [V, N, C, h, w] → F_TDM, same shape, from each frame and its difference to the one before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(_convolution(2 * channels, channels, 3), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, frames: Tensor) -> Tensor:
        previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        pairs = torch.cat([frames, frames - previous], dim=2)
        return frames + self.mix(pairs.flatten(0, 1)).unflatten(0, frames.shape[:2])


class FrameFeatureFusion(nn.Module):
    """FFF. F_TDM [V, N, C, h, w] → F_FFF [V, fused_channels · h · w]."""

    def __init__(self, channels: int, frames: int, fused_channels: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            _convolution(frames * channels, fused_channels, 3), _convolution(fused_channels, fused_channels, 3)
        )

    def forward(self, frames: Tensor) -> Tensor:
        return self.fuse(frames.flatten(1, 2)).flatten(1)


class ScoreMLP(nn.Sequential):
    """[F_FFF, F_TCAB] → one number a frame, with dropout in the linear layers (paper §4.2)."""

    def __init__(self, in_width: int, width: int, frames: int, dropout: float) -> None:
        super().__init__(
            nn.Dropout(dropout), nn.Linear(in_width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, frames)
        )

    def forward(self, vector: Tensor) -> Tensor:
        if not self.training or vector.is_meta:
            return super().forward(vector)
        # In bfloat16 a score of 70 would be rounded to whole quarters, and the loss with it.
        with torch.autocast(vector.device.type, enabled=False):
            return super().forward(vector.float())
