"""Inputs and assertions that the tests and the benchmarks of the kernels share."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffvqa_kernels.selective_scan.inputs import ScanInputs

# Largest error relative to the largest value of the float64 reference on the same (rounded) inputs. float32: a few
# roundings; half precision: one rounding of the output, since everything inside is float32. Gradients add up over
# tokens and channels.
FORWARD_TOLERANCE = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}
GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

PER_TOKEN = ("u", "delta", "B", "C", "z")


def bidirectional_inputs(
    batch: int,
    dim: int,
    d_state: int,
    length: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    is_adversarial: bool = False,
) -> ScanInputs:
    """Arguments of `bidirectional_selective_scan` as a Mamba block has them: A in float32, Δ from 1e-3 to 1e-1.

    Adversarial ones have Δ in [0, 10] and A in [−16, 0], with both ends in them, and a pole at 0 that never forgets.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    u, z = normal(batch, 2, dim, length), normal(batch, dim, length)
    B, C = normal(batch, 2, d_state, length), normal(batch, 2, d_state, length)
    D, delta_bias = normal(2, dim), torch.zeros(2, dim)
    if is_adversarial:
        step = uniform(batch, 2, dim, length) * 10
        step[..., ::3] = 10.0
        step[..., 1::5] = 1e-4
        A = -16 * uniform(2, dim, d_state)
        A[..., 0], A[..., -1] = 0.0, -16.0
    else:
        step = torch.exp(uniform(batch, 2, dim, length) * 4.6 - 6.9)
        A = -torch.arange(1.0, d_state + 1).expand(2, dim, d_state) * torch.exp(0.1 * normal(2, dim, d_state))
    # The inverse of softplus, so that softplus(delta) is the step.
    delta = step + torch.log(-torch.expm1(-step))
    activations = (u, delta, B, C, z)
    u, delta, B, C, z = (t.to(device=device, dtype=dtype) for t in activations)
    A, D, delta_bias = (t.to(device) for t in (A, D, delta_bias))
    return ScanInputs(u, delta, A, B, C, D, z, delta_bias)


def in_float64(inputs: ScanInputs) -> ScanInputs:
    return ScanInputs(*(t.double() for t in inputs))


def map_per_token(inputs: ScanInputs, change: Callable[[Tensor], Tensor]) -> ScanInputs:
    """The inputs with those that hold tokens changed, and the weights as they are."""
    return inputs._replace(**{name: change(getattr(inputs, name)) for name in PER_TOKEN})


def relative_error(got: Tensor, want: Tensor) -> float:
    """max |got − want| / max |want|; infinite where `got` is not finite."""
    if not torch.isfinite(got).all():
        return float("inf")
    scale = want.abs().max().double().clamp_min(1e-30)
    return float((got.detach().double() - want.detach().double()).abs().max() / scale)


def assert_close(got: Tensor, want: Tensor, tolerance: float, name: str = "output") -> None:
    """Fails with the largest error and where it is."""
    assert got.shape == want.shape, f"{name}: shape {list(got.shape)}, expected {list(want.shape)}"
    error = relative_error(got, want)
    if error > tolerance:
        difference = torch.nan_to_num((got.double() - want.double()).abs(), nan=float("inf"))
        place = [int(i) for i in torch.unravel_index(difference.argmax(), got.shape)]
        values = f"{got[tuple(place)].item()!r}, expected {want[tuple(place)].item()!r}"
        raise AssertionError(f"{name}: relative error {error:.2e} over {tolerance:.0e}, largest at {place}: {values}")
