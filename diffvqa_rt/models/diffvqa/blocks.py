"""The attention blocks of Stable Diffusion's VAE and UNet, under diffusers' state-dict names.

Two constants reach the UNet's blocks from outside: the time shift of each residual block and the text weights of each
cross-attention. They arrive as tensors, so the same code runs from a live timestep and from a folded table.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head attention of tokens [B · L, width] over the L tokens of their own image."""

    def __init__(self, width: int, heads: int, *, has_qkv_bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=has_qkv_bias)
        self.to_k = nn.Linear(width, width, bias=has_qkv_bias)
        self.to_v = nn.Linear(width, width, bias=has_qkv_bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, tokens: Tensor, length: int) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.reshape(-1, length, self.heads, x.shape[-1] // self.heads).transpose(1, 2)

        q, k, v = split(self.to_q(tokens)), split(self.to_k(tokens)), split(self.to_v(tokens))
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](attended.transpose(1, 2).reshape(tokens.shape))


class TextWeights(NamedTuple):
    """Cross-attention to a constant text, folded into two matrices (see `TextAttention`)."""

    to_scores: Tensor
    to_output: Tensor


class TextAttention(nn.Module):
    """Multi-head attention of tokens [B · L, width] over a text that is the same for all of them.

    Because the keys and values are constants, so are the products with the projections around them:
    q k^T = x (W_q k^T) and softmax(…) v W_out = softmax(…) (v W_out). `fold` makes the two products, exactly; no query,
    no attention operator and no head split remain.
    """

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(text_width, width, bias=False)
        self.to_v = nn.Linear(text_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def fold(self, text: Tensor) -> TextWeights:
        """Text hidden states [T, text_width] → to_scores [width, heads · T], to_output [heads · T, width]."""
        keys = self.to_k(text).unflatten(1, (self.heads, -1))
        values = self.to_v(text).unflatten(1, (self.heads, -1))
        queries = self.to_q.weight.unflatten(0, (self.heads, -1))
        outputs = self.to_out[0].weight.unflatten(1, (self.heads, -1))
        scale = keys.shape[-1] ** -0.5
        to_scores = torch.einsum("hdc,thd->cht", queries, keys) * scale
        to_output = torch.einsum("thd,chd->htc", values, outputs)
        return TextWeights(to_scores.flatten(1), to_output.flatten(0, 1))

    def forward(self, tokens: Tensor, weights: TextWeights) -> Tensor:
        scores = (tokens @ weights.to_scores).unflatten(1, (self.heads, -1))
        # In float32 whatever the network runs in: a half-precision runtime may sum the exponentials in half precision.
        attention = scores.float().softmax(dim=2).to(tokens.dtype)
        return torch.addmm(self.to_out[0].bias, attention.flatten(1), weights.to_output)


class GEGLU(nn.Module):
    """Gated linear unit with GELU (Shazeer 2020): one half of proj(x) times gelu of the other."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner_width)

    def forward(self, x: Tensor) -> Tensor:
        # Two products of half the size: splitting the result of one would copy it.
        half = self.proj.out_features // 2
        hidden = F.linear(x, self.proj.weight[:half], self.proj.bias[:half])
        return hidden * F.gelu(F.linear(x, self.proj.weight[half:], self.proj.bias[half:]))


class FeedForward(nn.Module):
    """GEGLU of four times the width, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Index 1 is diffusers' dropout, which Stable Diffusion sets to 0.
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; each after a LayerNorm and with a residual."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = TextAttention(width, heads, text_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, tokens: Tensor, length: int, text: TextWeights) -> Tensor:
        tokens = tokens + self.attn1(self.norm1(tokens), length)
        tokens = tokens + self.attn2(self.norm2(tokens), text)
        return tokens + self.ff(self.norm3(tokens))


def tokens_from_image(x: Tensor) -> Tensor:
    """[B, C, h, w] → [B · h · w, C]: a matrix, so that every linear layer is one product with its bias inside."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def image_from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """The inverse of `tokens_from_image`, to the shape of the image `like`."""
    _, channels, height, width = like.shape
    return tokens.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


class SpatialTransformer(nn.Module):
    """One transformer block over the positions of x [B, C, h, w]; diffusers' `Transformer2DModel`, linear."""

    def __init__(self, channels: int, heads: int, *, text_width: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(channels, heads, text_width)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, text: TextWeights) -> Tensor:
        tokens = self.proj_in(tokens_from_image(self.norm(x)))
        tokens = self.transformer_blocks[0](tokens, x.shape[2] * x.shape[3], text)
        return x + image_from_tokens(self.proj_out(tokens), like=x)


def sinusoidal_embedding(timesteps: Tensor, width: int) -> Tensor:
    """[B] int64 → [B, width] float32: cosines, then sines, of the timestep (diffusers' `flip_sin_to_cos`, shift 0)."""
    half = width // 2
    exponents = -torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * 10000.0**exponents
    return torch.cat([angles.cos(), angles.sin()], dim=1)
