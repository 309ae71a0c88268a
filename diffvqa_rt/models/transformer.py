"""The parts of every metric's vision transformers, under timm's state-dict names.

What a norm that stays in float32 gives becomes the dtype of the weights that it meets; shortcuts stay in float32.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int = 1, dropout: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √(width of a head)) v, head by head: [B, L, width] → [B, L, width].

    Args:
        dropout: of the softmax's probabilities, while training.
    """
    # Split along the width, which is static: the export then has no shapes to compute.
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


class PatchEmbedding(nn.Module):
    """Pictures [B, 3, S, S] → one token a patch, [B, P, width], row by row."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.proj(pictures).flatten(2).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head attention over tokens [B, L, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self.qkv(tokens.to(self.qkv.weight.dtype)).chunk(3, dim=-1)
        return self.proj(attend(queries, keys, values, self.heads))


class Mlp(nn.Module):
    """Two layers with GELU (erf) between them."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner_width)
        self.fc2 = nn.Linear(inner_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens.to(self.fc1.weight.dtype))))


class DropPath(nn.Module):
    """Leaves out a branch, item by item of the batch, while training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class TransformerBlock(nn.Module):
    """Attention and an MLP over tokens [B, L, width], each after a norm and beside a shortcut."""

    def __init__(
        self, width: int, attention: nn.Module, *, mlp_width: int, eps: float = 1e-5, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_width)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))
