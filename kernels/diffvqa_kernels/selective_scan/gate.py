"""The way back through the gate, out = y ∘ silu(z), in plain torch: the same for every backend."""

import torch
from torch import Tensor


def gradient_of_scan(grad_out: Tensor, z: Tensor) -> Tensor:
    """∂L/∂y from ∂L/∂out."""
    return grad_out * z * torch.sigmoid(z)


def gradient_of_gate(grad_out: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """∂L/∂z from ∂L/∂out, with `y` the sum of both directions."""
    sigmoid = torch.sigmoid(z)
    return grad_out * y * sigmoid * (1 + z * (1 - sigmoid))
