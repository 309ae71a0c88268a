"""`diffvqa::bidirectional_selective_scan` as a torch operator.

`torch.compile`, `torch.export` and the ONNX exporter see one node; which backend runs is decided when it runs. Only
Inductor, and with it AOTInductor, gets the forward on a GPU as the launches that it consists of.
"""

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode

from diffvqa_kernels.selective_scan import backends
from diffvqa_kernels.selective_scan.inputs import ScanInputs


@torch.library.custom_op("diffvqa::bidirectional_selective_scan", mutates_args=())
def bidirectional_selective_scan_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    backend: str = "auto",
) -> Tensor:
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias)
    return _in_layout_of(z, backends.forward(inputs, backend))


@torch.library.custom_op("diffvqa::bidirectional_selective_scan_backward", mutates_args=())
def bidirectional_selective_scan_backward_op(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    backend: str,
) -> list[Tensor]:
    """The gradients of all eight inputs, in the order of the forward's arguments and in their dtypes."""
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias)
    gradients = backends.backward(grad_out, inputs, backend)
    return [_in_layout_of(t, gradient.to(t.dtype)) for t, gradient in zip(inputs, gradients, strict=True)]


def _in_layout_of(like: Tensor, x: Tensor) -> Tensor:
    """`x` with the strides that the fake implementations promise."""
    promised = torch.empty_like(like, dtype=x.dtype)
    return x if x.stride() == promised.stride() else promised.copy_(x)


@bidirectional_selective_scan_op.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, backend="auto"):
    return torch.empty_like(z, dtype=u.dtype)


@bidirectional_selective_scan_backward_op.register_fake
def _(grad_out, *inputs_and_backend):
    return [torch.empty_like(t) for t in inputs_and_backend[:-1]]


@bidirectional_selective_scan_op.register_torch_dispatch(FunctionalTensorMode)
def _(mode, op, types, args, kwargs):
    """The three launches in a compiler's graph on a GPU, the node in an exported program and on a CPU.

    `torch.library.triton_op` does the same, but would have a Triton kernel on every device.
    """
    inputs, backend = _arguments(*args, **kwargs)
    is_exported = not torch._functorch.config.decompose_custom_triton_ops
    if is_exported or inputs.u.device.type != "cuda" or backends.resolved(backend, inputs) != "triton":
        return mode.__torch_dispatch__(op, types, args, kwargs)
    from diffvqa_kernels.selective_scan.forward import forward

    with mode:
        return forward(inputs, is_traced=True)


def _arguments(u, delta, A, B, C, D, z, delta_bias, backend="auto") -> tuple[ScanInputs, str]:
    return ScanInputs(u, delta, A, B, C, D, z, delta_bias), backend


def _save(ctx, inputs, output):
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_out):
    return (*bidirectional_selective_scan_backward_op(grad_out, *ctx.saved_tensors, ctx.backend), None)


bidirectional_selective_scan_op.register_autograd(_backward, setup_context=_save)
