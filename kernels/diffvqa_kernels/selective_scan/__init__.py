"""The selective scan of Mamba in both directions, as one operator with many lowerings."""

import torch
from torch import Tensor

from diffvqa_kernels.selective_scan.backends import BACKENDS, check_backend
from diffvqa_kernels.selective_scan.inputs import ScanInputs
from diffvqa_kernels.selective_scan.operators import bidirectional_selective_scan_op
from diffvqa_kernels.selective_scan.reference import bidirectional_selective_scan_reference

__all__ = [
    "BACKENDS",
    "bidirectional_selective_scan",
    "bidirectional_selective_scan_reference",
]


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
    """The scan in both directions, each with its own weights, with Δ = softplus(delta + delta_bias):

        h_k = exp(Δ_k A) ∘ h_{k−1} + (Δ_k u_k) B_k        y_k = C_k · h_k + D u_k
        out = (y_forward + y_backward) ∘ silu(z)

    Args:
        u: input, [batch, 2, dim, length]; axis 1 is the direction, 0 forward and 1 backward, both in natural order;
            float32, float16, bfloat16, or float64 (plain torch only).
        delta: step sizes before bias and softplus, [batch, 2, dim, length].
        A: state matrix (negative), [2, dim, d_state].
        B: input matrix, [batch, 2, d_state, length].
        C: output matrix, [batch, 2, d_state, length].
        D: skip weights, [2, dim].
        z: gate before silu, which both directions share, [batch, dim, length].
        delta_bias: added to `delta`, [2, dim].
        backend: "triton", "numba" or "chunked" (plain torch); "auto" takes the best for the tensors' device.

    Returns:
        [batch, dim, length] in `u`'s dtype; computed in float32, or float64 where `u` is float64.

    Raises:
        ValueError: a shape or device doesn't fit, or the backend asked for can't run here.
        TypeError: `u` isn't a floating-point tensor that the backend takes.
    """
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias)
    _check(inputs, backend)
    return bidirectional_selective_scan_op(*inputs, backend)


def _check(inputs: ScanInputs, backend: str) -> None:
    check_backend(backend)
    u, A = inputs.u, inputs.A
    if not u.is_floating_point():
        raise TypeError(f"u is {u.dtype}: expected a floating-point tensor")
    if u.ndim != 4 or A.ndim != 3:
        raise ValueError(
            f"u is {list(u.shape)}, A {list(A.shape)}: expected [batch, 2, dim, length], [2, dim, d_state]"
        )
    batch, _, dim, length = u.shape
    d_state = A.shape[2]
    if length == 0:
        raise ValueError(f"u is {list(u.shape)}: expected at least one token")
    shapes = {
        "u": (batch, 2, dim, length),
        "delta": (batch, 2, dim, length),
        "A": (2, dim, d_state),
        "B": (batch, 2, d_state, length),
        "C": (batch, 2, d_state, length),
        "D": (2, dim),
        "z": (batch, dim, length),
        "delta_bias": (2, dim),
    }
    for (name, shape), tensor in zip(shapes.items(), inputs, strict=True):
        if tensor.shape != torch.Size(shape):
            raise ValueError(f"{name} is {list(tensor.shape)}: expected {list(shape)} from u's and A's shapes")
        if tensor.device != u.device:
            raise ValueError(f"{name} is on {tensor.device} and u on {u.device}: expected one device")
