"""Stable Diffusion's VAE encoder, under diffusers' `AutoencoderKL` state-dict names."""

import functools

from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.diffvqa.config import VaeConfig
from diffvqa_rt.models.blocks import Downsample, ResnetBlock
from diffvqa_rt.models.diffvqa.blocks import SelfAttention, image_from_tokens, tokens_from_image

NORM_EPS = 1e-6


class DownBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, config: VaeConfig, *, has_downsampler: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(
                in_channels if layer == 0 else out_channels,
                out_channels,
                norm=functools.partial(nn.GroupNorm, config.norm_groups, eps=NORM_EPS),
            )
            for layer in range(config.layers_per_block)
        )
        self.downsamplers = nn.ModuleList([Downsample(out_channels, is_asymmetric=True)] if has_downsampler else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class SpatialAttention(SelfAttention):
    """Single-head self-attention over the positions of x [B, C, h, w], with its own GroupNorm and residual."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__(channels, heads=1, has_qkv_bias=True)
        self.group_norm = nn.GroupNorm(norm_groups, channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # an image, where the base takes tokens
        tokens = super().forward(tokens_from_image(self.group_norm(x)), x.shape[2] * x.shape[3])
        return x + image_from_tokens(tokens, like=x)


class MidBlock(nn.Module):
    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, channels, norm=functools.partial(nn.GroupNorm, norm_groups, eps=NORM_EPS))
            for _ in range(2)
        )
        self.attentions = nn.ModuleList([SpatialAttention(channels, norm_groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = config.channels
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(widths[max(level - 1, 0)], widths[level], config, has_downsampler=level < len(widths) - 1)
            for level in range(len(widths))
        )
        self.mid_block = MidBlock(widths[-1], config.norm_groups)
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # `conv_in` reads float32 frames and `conv_out` writes float32 latents; the blocks may run in half precision.
        x = self.conv_in(x).to(next(self.mid_block.parameters()).dtype)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x).to(self.conv_out.weight.dtype)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VaeEncoder(nn.Module):
    """Frames to latents: z0 = scaling_factor · mean, no sampling (SPEC §2).

    Args of `forward`: frames [B, 3, S, S] in [−1, 1]. Returns [B, latent_channels, S/8, S/8].
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.scaling_factor = config.scaling_factor
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)

    def forward(self, frames: Tensor) -> Tensor:
        mean, _log_variance = self.quant_conv(self.encoder(frames)).chunk(2, dim=1)
        return self.scaling_factor * mean
