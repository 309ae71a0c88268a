"""Transposed attention, of channels in the place of tokens (§III-C, eq. 10; D19, D24)."""

from torch import Tensor, nn

from diffvqa_rt.models.transformer import attend


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
