"""Attention of tokens, as in the ViT, and of channels: transposed attention (§III-C, eq. 10; D19, D24)."""

from torch import Tensor, nn
from torch.nn import functional as F


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int = 1) -> Tensor:
    """softmax(q kᵀ / √(width of a head)) v, head by head: [B, L, width] → [B, L, width]."""
    # Split along the width, which is static: the export then has no shapes to compute.
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class TransposedAttention(nn.Module):
    """x + dropout(softmax(q kᵀ / √P) v) for maps [V, C, P]; q, k, v are linear along the P positions.

    A TAB's four inputs are one and the same; an RTAB's are a map and three differences from it.
    """

    def __init__(self, positions: int, dropout: float) -> None:
        super().__init__()
        self.to_q = nn.Linear(positions, positions)
        self.to_k = nn.Linear(positions, positions)
        self.to_v = nn.Linear(positions, positions)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return x + self.dropout(attend(self.to_q(query), self.to_k(key), self.to_v(value)))
