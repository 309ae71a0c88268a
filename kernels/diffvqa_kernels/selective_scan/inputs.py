"""The tensors that the selective scan takes, under their names in Mamba."""

from typing import NamedTuple

import torch
from torch import Tensor


class ScanInputs(NamedTuple):
    """The eight tensors of a scan in both directions, or the gradient of each.

    Axis 1 of u, delta, B and C and axis 0 of A, D and delta_bias is the direction: 0 runs from the first token, 1 from
    the last. Both lie in natural order.

    Args:
        u: input, [batch, 2, dim, length].
        delta: step sizes before bias and softplus, [batch, 2, dim, length].
        A: state matrix (negative), [2, dim, d_state].
        B: input matrix, [batch, 2, d_state, length].
        C: output matrix, [batch, 2, d_state, length].
        D: skip weights, [2, dim].
        z: gate before silu, which both directions share, [batch, dim, length].
        delta_bias: added to `delta`, [2, dim].
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    delta_bias: Tensor

    def widened(self) -> "ScanInputs":
        """All in the dtype that a scan computes in: float64 where `u` is float64, else float32."""
        dtype = torch.promote_types(self.u.dtype, torch.float32)
        return ScanInputs(*(t.to(dtype) for t in self))
