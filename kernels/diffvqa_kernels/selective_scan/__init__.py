"""The selective scan of Mamba, in one direction or both, as one operator with many lowerings."""

from torch import Tensor

from diffvqa_kernels.selective_scan.operators import bidirectional_selective_scan_op, selective_scan_op
from diffvqa_kernels.selective_scan.reference import (
    bidirectional_selective_scan_reference,
    selective_scan_reference,
)

__all__ = [
    "bidirectional_selective_scan",
    "bidirectional_selective_scan_reference",
    "selective_scan",
    "selective_scan_reference",
]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """The scan's output, [batch, dim, length]."""
    return selective_scan_op(u, delta, A, B, C, D, z, delta_bias, reverse, backend)


def bidirectional_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """(y_forward + y_backward) ∘ silu(z), [batch, dim, length]."""
    return bidirectional_selective_scan_op(u, delta, A, B, C, D, z, delta_bias, backend)
