"""The selective scan in plain PyTorch: the truth that every other lowering is tested against.

For each batch row, direction and channel, with Δ = softplus(delta + delta_bias):

    h_k = exp(Δ_k A) ∘ h_{k−1} + (Δ_k u_k) B_k        y_k = C_k · h_k + D u_k        out = Σ_directions y ∘ silu(z)

Gu and Dao, "Mamba" (2023), §3, with the first-order B̄ = ΔB of its released code; DiffVQA, eq. (6)–(9).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffvqa_kernels.selective_scan.inputs import ScanInputs


def bidirectional_selective_scan_reference(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """(y_forward + y_backward) ∘ silu(z), a plain loop over `length`; differentiable by autograd.

    Shapes as in `ScanInputs`.

    Returns:
        [batch, dim, length] in `u`'s dtype; computed in float64 where `u` is float64, else in float32.
    """
    dtype = u.dtype
    u, delta, A, B, C, D, z, delta_bias = ScanInputs(u, delta, A, B, C, D, z, delta_bias).widened()
    forward, backward = (
        _one_direction(u[:, i], delta[:, i], A[i], B[:, i], C[:, i], D[i], delta_bias[i], reverse=i == 1)
        for i in (0, 1)
    )
    return ((forward + backward) * F.silu(z)).to(dtype)


def _one_direction(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, *, reverse: bool
) -> Tensor:
    """y of one direction, [batch, dim, length]."""
    # F.softplus is the identity above 20, where it differs from it by less than 3e-9.
    step = F.softplus(delta + delta_bias[:, None])
    batch, dim, length = u.shape
    h = u.new_zeros(batch, dim, A.shape[1])
    y = [h.new_zeros(batch, dim)] * length
    for k in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(step[:, :, k, None] * A)
        h = decay * h + (step[:, :, k] * u[:, :, k])[..., None] * B[:, None, :, k]
        y[k] = (h * C[:, None, :, k]).sum(-1)
    return torch.stack(y, dim=-1) + D[:, None] * u
