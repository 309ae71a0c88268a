"""`diffvqa::bidirectional_selective_scan` as a torch operator.

`torch.compile`, `torch.export` and the ONNX exporter see one node; which backend runs is decided when it runs. Only
Inductor, and with it AOTInductor, gets the forward on a GPU as the launches that it consists of.
"""

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode

from diffvqa_kernels.selective_scan.backends import backward_module, forward_module, resolved


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
    forward = forward_module(backend, u, A.shape[-1]).forward
    return _in_layout_of(z, forward(u, delta, A, B, C, D, z, delta_bias))


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
    """The gradients of all eight inputs, in the order of the forward's arguments."""
    backward = backward_module(backend, u, A.shape[-1]).backward
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    return [_in_layout_of(t, g) for t, g in zip(inputs, backward(grad_out, *inputs), strict=True)]


def _in_layout_of(like: Tensor, x: Tensor) -> Tensor:
    """`x` with the strides that the fake implementations promise."""
    promised = torch.empty_like(like, dtype=x.dtype)
    return x if x.stride() == promised.stride() else promised.copy_(x)


@bidirectional_selective_scan_op.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, backend="auto"):
    return torch.empty_like(z, dtype=u.dtype)


@bidirectional_selective_scan_backward_op.register_fake
def _(grad_out, *inputs_and_options):
    return [torch.empty_like(t) for t in inputs_and_options if isinstance(t, Tensor)]


def _runs_triton_on_a_gpu(u, delta, A, B, C, D, z, delta_bias, backend="auto") -> bool:
    return u.device.type == "cuda" and resolved(backend, u, int(A.shape[-1])) == "triton"


def _launches(u, delta, A, B, C, D, z, delta_bias, backend="auto") -> Tensor:
    from diffvqa_kernels.selective_scan.forward import forward

    return forward(u, delta, A, B, C, D, z, delta_bias, is_traced=True)


@bidirectional_selective_scan_op.register_torch_dispatch(FunctionalTensorMode)
def _(mode, op, types, args, kwargs):
    """A compiler's graph on a GPU gets the three launches, an exported program keeps the node.

    What `torch.library.triton_op` does, which would have a Triton kernel on every device.
    """
    is_exported = not torch._functorch.config.decompose_custom_triton_ops
    if is_exported or not _runs_triton_on_a_gpu(*args, **kwargs):
        return mode.__torch_dispatch__(op, types, args, kwargs)
    with mode:
        return _launches(*args, **kwargs)


def _save(ctx, inputs, output):
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_out):
    return (*bidirectional_selective_scan_backward_op(grad_out, *ctx.saved_tensors, ctx.backend), None)


bidirectional_selective_scan_op.register_autograd(_backward, setup_context=_save)
