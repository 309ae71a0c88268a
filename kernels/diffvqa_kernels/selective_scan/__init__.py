"""The selective scan of Mamba, in one direction or both, as one operator with many lowerings."""

import torch
from torch import Tensor

from diffvqa_kernels.selective_scan.backends import BACKENDS, check_backend
from diffvqa_kernels.selective_scan.operators import bidirectional_selective_scan_op, selective_scan_op
from diffvqa_kernels.selective_scan.reference import (
    bidirectional_selective_scan_reference,
    selective_scan_reference,
)

__all__ = [
    "BACKENDS",
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
    """The scan of one direction, with Δ = softplus(delta + delta_bias):

        h_k = exp(Δ_k A) ∘ h_{k−1} + (Δ_k u_k) B_k        y_k = C_k · h_k + D u_k        out = y ∘ silu(z)

    Args:
        u: input, [batch, dim, length]; float32, float16, bfloat16, or float64 (plain torch only).
        delta: step sizes before bias and softplus, [batch, dim, length].
        A: state matrix (negative), [dim, d_state].
        B: input matrix, [batch, d_state, length].
        C: output matrix, [batch, d_state, length].
        D: skip weights, [dim].
        z: gate before silu, [batch, dim, length].
        delta_bias: added to `delta`, [dim].
        reverse: run from the last token to the first; everything stays in its natural order.
        backend: "triton", "numba" or "chunked" (plain torch); "auto" takes the best for the tensors' device.

    Returns:
        [batch, dim, length] in `u`'s dtype; computed in float32, or float64 where `u` is float64.

    Raises:
        ValueError: a shape or device doesn't fit, or the backend asked for can't run here.
        TypeError: `u` isn't a floating-point tensor that the backend takes.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, backend, directions=())
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
    """(y_forward + y_backward) ∘ silu(z): both directions at once, each with its own weights.

    Args:
        u, delta: [batch, 2, dim, length]; axis 1 is the direction, 0 forward and 1 backward, both in natural order.
        A: [2, dim, d_state].
        B, C: [batch, 2, d_state, length].
        D, delta_bias: [2, dim].
        z: the gate that both directions share, [batch, dim, length].
        backend: as in `selective_scan`.

    Returns:
        [batch, dim, length] in `u`'s dtype.

    Raises:
        ValueError, TypeError: as in `selective_scan`.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, backend, directions=(2,))
    return bidirectional_selective_scan_op(u, delta, A, B, C, D, z, delta_bias, backend)


def _check(u, delta, A, B, C, D, z, delta_bias, backend: str, directions: tuple[int, ...]) -> None:
    check_backend(backend)
    if not u.is_floating_point():
        raise TypeError(f"u is {u.dtype}: expected a floating-point tensor")
    if u.ndim != 3 + len(directions) or A.ndim != 2 + len(directions):
        sizes = "2, " if directions else ""
        raise ValueError(
            f"u is {list(u.shape)}, A {list(A.shape)}: expected [batch, {sizes}dim, length], [{sizes}dim, d_state]"
        )
    batch, dim, length, d_state = u.shape[0], u.shape[-2], u.shape[-1], A.shape[-1]
    if length == 0:
        raise ValueError(f"u is {list(u.shape)}: expected at least one token")
    per_token = (batch, *directions, d_state, length)
    expected = {
        "u": (u, (batch, *directions, dim, length)),
        "delta": (delta, (batch, *directions, dim, length)),
        "A": (A, (*directions, dim, d_state)),
        "B": (B, per_token),
        "C": (C, per_token),
        "D": (D, (*directions, dim)),
        "z": (z, (batch, dim, length)),
        "delta_bias": (delta_bias, (*directions, dim)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if tensor.shape != torch.Size(shape):
            raise ValueError(f"{name} is {list(tensor.shape)}: expected {list(shape)} from u's and A's shapes")
        if tensor.device != u.device:
            raise ValueError(f"{name} is on {tensor.device} and u on {u.device}: expected one device")
