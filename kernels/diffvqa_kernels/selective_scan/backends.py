"""The choice of an implementation: `triton` on a GPU, `numba` on a CPU that has it, else `chunked` (plain torch)."""

import functools
import importlib
import importlib.util
import logging
from types import ModuleType

import torch
from torch import Tensor

from diffvqa_kernels.selective_scan.inputs import ScanInputs

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "triton", "numba", "chunked")
MAX_TRITON_STATE = 64


def forward(inputs: ScanInputs, backend: str) -> Tensor:
    """The scan's output, [batch, dim, length] in `u`'s dtype."""
    return _module(resolved(backend, inputs), "forward").forward(inputs)


def backward(grad_out: Tensor, inputs: ScanInputs, backend: str) -> ScanInputs:
    """The gradient of each input, in its dtype or in that of the computation."""
    return _module(resolved(backend, inputs), "backward").backward(grad_out, inputs)


def _module(backend: str, part: str) -> ModuleType:
    # The Triton kernels are two modules, forward.py and backward.py.
    name = {"triton": part, "numba": "numba_cpu", "chunked": "chunked"}[backend]
    return importlib.import_module(f"diffvqa_kernels.selective_scan.{name}")


def check_backend(backend: str) -> None:
    """Refuse an unknown name.

    Raises:
        ValueError: with the names there are.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")


def resolved(backend: str, inputs: ScanInputs) -> str:
    """The name of the backend that runs; one asked for by name never falls back."""
    check_backend(backend)
    u = inputs.u
    # An integer also where it is traced as a dynamic size.
    d_state = int(inputs.A.shape[2])
    if backend == "auto":
        return _automatic(u.device.type, u.dtype, d_state)
    if backend != "chunked" and u.dtype == torch.float64:
        raise TypeError(f"backend={backend!r} computes in float32 and u is float64: use backend='chunked'")
    if backend == "numba" and u.device.type != "cpu":
        raise ValueError(f"backend='numba' runs on the CPU and u is on {u.device}")
    if backend == "triton":
        _check_triton(u, d_state)
    return backend


def _check_triton(u: Tensor, d_state: int) -> None:
    if d_state > MAX_TRITON_STATE:
        raise ValueError(f"backend='triton' holds up to {MAX_TRITON_STATE} states a channel, A has {d_state}")
    if u.device.type == "cpu":
        from diffvqa_kernels.selective_scan.tuning import INTERPRETED

        if not INTERPRETED:
            raise ValueError("backend='triton' on CPU tensors needs TRITON_INTERPRET=1 before triton's first import")


@functools.cache
def _automatic(device: str, dtype: torch.dtype, d_state: int) -> str:
    if dtype == torch.float64:
        return "chunked"
    if device == "cuda" and d_state <= MAX_TRITON_STATE and importlib.util.find_spec("triton"):
        return "triton"
    if device == "cpu" and importlib.util.find_spec("numba"):
        return "numba"
    logger.info(
        "selective scan in plain torch on %s (%s, d_state %d); numba is faster on a CPU", device, dtype, d_state
    )
    return "chunked"
