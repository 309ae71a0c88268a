"""Attention of tokens [B, L, width], as the ViT and the transposed attentions use it."""

from torch import Tensor
from torch.nn import functional as F


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int = 1) -> Tensor:
    """softmax(q kᵀ / √(width of a head)) v, head by head: [B, L, width] → [B, L, width]."""
    # Split along the width, which is static: the export then has no shapes to compute.
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
