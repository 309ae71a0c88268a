"""The selective scan in plain PyTorch: the truth that every other lowering is tested against.

For each batch row and channel, with Δ = softplus(delta + delta_bias):

    h_k = exp(Δ_k A) ∘ h_{k−1} + (Δ_k u_k) B_k        y_k = C_k · h_k + D u_k        out = y ∘ silu(z)

Gu and Dao, "Mamba" (2023), §3, with the first-order B̄ = ΔB of its released code; DiffVQA, eq. (6)–(9).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_reference(
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
) -> Tensor:
    """The scan of one direction, a plain loop over `length`; differentiable by autograd.

    Args:
        u: input, [batch, dim, length].
        delta: step sizes before bias and softplus, [batch, dim, length].
        A: state matrix (negative), [dim, d_state].
        B: input matrix, [batch, d_state, length].
        C: output matrix, [batch, d_state, length].
        D: skip weights, [dim].
        z: gate before silu, [batch, dim, length].
        delta_bias: added to `delta`, [dim].
        reverse: run from the last token to the first; everything stays in its natural order.

    Returns:
        [batch, dim, length] in `u`'s dtype; computed in float64 where `u` is float64, else in float32.
    """
    dtype = u.dtype
    compute = torch.promote_types(dtype, torch.float32)
    u, delta, A, B, C = (t.to(compute) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(compute)[:, None]
    # F.softplus is the identity above 20, where it differs from it by less than 3e-9.
    delta = F.softplus(delta)

    batch, dim, length = u.shape
    h = u.new_zeros(batch, dim, A.shape[1])
    y = [h.new_zeros(batch, dim)] * length
    for k in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(delta[:, :, k, None] * A)
        h = decay * h + (delta[:, :, k] * u[:, :, k])[..., None] * B[:, None, :, k]
        y[k] = (h * C[:, None, :, k]).sum(-1)
    out = torch.stack(y, dim=-1)
    if D is not None:
        out = out + D.to(compute)[:, None] * u
    if z is not None:
        out = out * F.silu(z.to(compute))
    return out.to(dtype)


def bidirectional_selective_scan_reference(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """(y_forward + y_backward) ∘ silu(z), both directions in natural time order.

    Args:
        u, delta: [batch, 2, dim, length]; axis 1 is the direction, 0 forward and 1 backward.
        A: [2, dim, d_state].
        B, C: [batch, 2, d_state, length].
        D, delta_bias: [2, dim].
        z: the gate that both directions share, [batch, dim, length].

    Returns:
        [batch, dim, length] in `u`'s dtype.
    """
    compute = torch.promote_types(u.dtype, torch.float32)
    forward, backward = (
        selective_scan_reference(
            u[:, i].to(compute), delta[:, i], A[i], B[:, i], C[:, i], D[i], None, delta_bias[i], reverse=bool(i)
        )
        for i in (0, 1)
    )
    return ((forward + backward) * F.silu(z.to(compute))).to(u.dtype)
