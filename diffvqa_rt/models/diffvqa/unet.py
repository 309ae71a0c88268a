"""Stable Diffusion's UNet and the Controller that steers it, under diffusers' state-dict names.

What depends on the timestep and on the text alone is a `Conditioning`: computed live from a timestep in training, or
once for all K steps and then indexed (an exact fold) where the network is played.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.diffvqa.config import UNetConfig
from diffvqa_rt.models.blocks import Downsample, ResnetBlock, Upsample
from diffvqa_rt.models.diffvqa.blocks import (
    BasicTransformerBlock,
    SpatialTransformer,
    TextWeights,
    sinusoidal_embedding,
)

NORM_EPS = 1e-5


class Conditioning(NamedTuple):
    """The tables that the timestep and the text give a UNet, in the order in which its blocks run.

    time_shifts: per residual block, [B or 1 or K, out_channels]. text_weights: per transformer block, its
    cross-attention folded over the text.
    """

    time_shifts: tuple[Tensor, ...]
    text_weights: tuple[TextWeights, ...]

    def at_step(self, step: Tensor) -> "Conditioning":
        """Row `step` ([1] int64) of a conditioning that holds all K steps."""
        return self._replace(time_shifts=tuple(table.index_select(0, step) for table in self.time_shifts))

    def tensors(self) -> list[Tensor]:
        return [*self.time_shifts, *(matrix for weights in self.text_weights for matrix in weights)]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Conditioning":
        return Conditioning(
            tuple(function(table) for table in self.time_shifts),
            tuple(TextWeights(*(function(matrix) for matrix in weights)) for weights in self.text_weights),
        )


class TimestepEmbedding(nn.Module):
    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(embedding)))


class Level(nn.Module):
    """One resolution of the UNet: residual blocks, each followed by a transformer where the level has attention."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: int,
        config: UNetConfig,
        *,
        heads: int | None,
        has_downsampler: bool = False,
        has_upsampler: bool = False,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_residual_block(width, out_channels, config) for width in in_channels)
        self.attentions = nn.ModuleList(
            SpatialTransformer(out_channels, heads, text_width=config.text_width, norm_groups=config.norm_groups)
            for _ in in_channels
            if heads is not None
        )
        # Diffusers leaves these names out where a block does not resample; an empty list adds none to a state dict.
        self.downsamplers = nn.ModuleList([Downsample(out_channels)] if has_downsampler else [])
        self.upsamplers = nn.ModuleList([Upsample(out_channels)] if has_upsampler else [])

    def run_layer(self, layer: int, x: Tensor, shifts: Iterator[Tensor], texts: Iterator[TextWeights]) -> Tensor:
        x = self.resnets[layer](x, next(shifts))
        return self.attentions[layer](x, next(texts)) if self.attentions else x

    def down(self, x: Tensor, shifts: Iterator[Tensor], texts: Iterator[TextWeights]) -> list[Tensor]:
        """Every tensor that the decoder will take as a skip connection, the last of them the level's output."""
        skips = []
        for layer in range(len(self.resnets)):
            x = self.run_layer(layer, x, shifts, texts)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips.append(x)
        return skips

    def up(self, x: Tensor, skips: list[Tensor], shifts: Iterator[Tensor], texts: Iterator[TextWeights]) -> Tensor:
        for layer in range(len(self.resnets)):
            x = self.run_layer(layer, torch.cat([x, skips.pop()], dim=1), shifts, texts)
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


class MidBlock(nn.Module):
    def __init__(self, channels: int, config: UNetConfig, heads: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_residual_block(channels, channels, config) for _ in range(2))
        self.attentions = nn.ModuleList(
            [SpatialTransformer(channels, heads, text_width=config.text_width, norm_groups=config.norm_groups)]
        )

    def forward(self, x: Tensor, shifts: Iterator[Tensor], texts: Iterator[TextWeights]) -> Tensor:
        x = self.resnets[0](x, next(shifts))
        x = self.attentions[0](x, next(texts))
        return self.resnets[1](x, next(shifts))


class UNetEncoder(nn.Module):
    """The half that the UNet and the Controller have in common: time embedding, the levels downwards, the middle."""

    def __init__(self, config: UNetConfig, in_channels: int) -> None:
        super().__init__()
        widths = config.channels
        deepest = len(widths) - 1
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], config.time_width)
        self.down_blocks = nn.ModuleList(
            Level(
                (widths[max(level - 1, 0)], *[widths[level]] * (config.layers_per_block - 1)),
                widths[level],
                config,
                heads=config.attention_heads[level] if level < deepest else None,
                has_downsampler=level < deepest,
            )
            for level in range(len(widths))
        )
        self.mid_block = MidBlock(widths[-1], config, config.attention_heads[-1])

    def conditioning(self, timesteps: Tensor, text: Tensor) -> Conditioning:
        """Timesteps [B] int64 and text hidden states [text_tokens, text_width] → what the blocks need of them."""
        in_width = self.time_embedding.linear_1.in_features
        embedding = sinusoidal_embedding(timesteps, in_width).to(text.dtype)
        activated = F.silu(self.time_embedding(embedding))
        blocks = [block for stage in self.stages() for block in stage.modules()]
        return Conditioning(
            tuple(block.time_emb_proj(activated) for block in blocks if isinstance(block, ResnetBlock)),
            tuple(block.attn2.fold(text) for block in blocks if isinstance(block, BasicTransformerBlock)),
        )

    def stages(self) -> list[nn.Module]:
        """The stages that hold blocks, in the order in which they run."""
        return [*self.down_blocks, self.mid_block]

    def encode(self, x: Tensor, shifts: Iterator[Tensor], texts: Iterator[TextWeights]) -> tuple[list[Tensor], Tensor]:
        """The skip connections, fine to coarse, and the middle block's output.

        `conv_in` reads float32 latents, and the blocks may run in half precision.
        """
        x = self.conv_in(x).to(next(self.mid_block.parameters()).dtype)
        skips = [x]
        for block in self.down_blocks:
            skips += block.down(skips[-1], shifts, texts)
        return skips, self.mid_block(skips[-1], shifts, texts)


class Controller(UNetEncoder):
    """The trainable copy of the UNet's encoder that sees [z_t, z0] (SPEC §2; Zhang et al. 2023, without hint encoder).

    Args of `forward`: z, z0 [B, latent_channels, h, w] and the conditioning. Returns what to add to the UNet's skips
    and to its middle: all zero until the zero convolutions have been trained.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, 2 * config.latent_channels)
        widths = config.channels
        skip_widths = [widths[0]]
        for level, width in enumerate(widths):
            skip_widths += [width] * (config.layers_per_block + (level < len(widths) - 1))
        self.controlnet_down_blocks = nn.ModuleList(_zero_convolution(width) for width in skip_widths)
        self.controlnet_mid_block = _zero_convolution(widths[-1])

    def forward(self, z: Tensor, z0: Tensor, conditioning: Conditioning) -> tuple[list[Tensor], Tensor]:
        shifts, texts = iter(conditioning.time_shifts), iter(conditioning.text_weights)
        skips, middle = self.encode(torch.cat([z, z0], dim=1), shifts, texts)
        controls = [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        return controls, self.controlnet_mid_block(middle)

    @torch.no_grad()
    def copy_from_unet(self, unet: "UNet") -> None:
        """Start as the paper does: the UNet's weights, with the z0 half of `conv_in` and the zero convolutions at 0."""
        own = {name: torch.zeros_like(value) for name, value in self.state_dict().items()}
        shared = {name: value for name, value in unet.state_dict().items() if name in own}
        first = torch.zeros_like(own["conv_in.weight"])
        first[:, : unet.conv_in.in_channels] = shared["conv_in.weight"]
        self.load_state_dict({**own, **shared, "conv_in.weight": first})


class UNet(UNetEncoder):
    """ε_θ of SPEC §2: diffusers' `UNet2DConditionModel` of Stable Diffusion 2.1-base at any size.

    Args of `forward`: z [B, latent_channels, h, w], the conditioning, and the Controller's output (or None). Returns
    ε [B, latent_channels, h, w] and the four decoder blocks' outputs, coarse to fine (F_MS).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, config.latent_channels)
        widths = config.channels
        top_down = widths[::-1]
        layers = config.layers_per_block + 1
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(top_down):
            below = top_down[max(level - 1, 0)]
            above = top_down[min(level + 1, len(widths) - 1)]
            # Layer by layer: what comes from below or the layer before, beside the skip that the encoder left.
            inputs = tuple(
                (below if layer == 0 else width) + (above if layer == layers - 1 else width) for layer in range(layers)
            )
            heads = config.attention_heads[::-1][level] if level > 0 else None
            self.up_blocks.append(Level(inputs, width, config, heads=heads, has_upsampler=level < len(widths) - 1))
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, widths[0], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[0], config.latent_channels, 3, padding=1)

    def stages(self) -> list[nn.Module]:
        return [*super().stages(), *self.up_blocks]

    def forward(
        self, z: Tensor, conditioning: Conditioning, control: tuple[list[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        shifts, texts = iter(conditioning.time_shifts), iter(conditioning.text_weights)
        skips, x = self.encode(z, shifts, texts)
        if control is not None:
            skips = [skip + added for skip, added in zip(skips, control[0], strict=True)]
            x = x + control[1]
        features = []
        for block in self.up_blocks:
            x = block.up(x, skips, shifts, texts)
            features.append(x)
        return self.conv_out(F.silu(self.conv_norm_out(x.to(self.conv_out.weight.dtype)))), features


def _residual_block(in_channels: int, out_channels: int, config: UNetConfig) -> ResnetBlock:
    norm = functools.partial(nn.GroupNorm, config.norm_groups, eps=NORM_EPS)
    return ResnetBlock(in_channels, out_channels, norm=norm, time_width=config.time_width)


def _zero_convolution(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
