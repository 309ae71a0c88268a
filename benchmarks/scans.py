"""The lowerings of the selective scan that are compared: each made ready for its inputs, then called with them."""

from collections.abc import Callable

import pytest
import torch
from diffvqa_kernels.selective_scan import bidirectional_selective_scan, bidirectional_selective_scan_reference
from diffvqa_kernels.selective_scan.inputs import ScanInputs
from torch import Tensor

HAS_GPU = torch.cuda.is_available()
BASELINE = "pytorch"

Scan = Callable[..., Tensor]


def _onnxruntime(inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    from diffvqa_kernels.selective_scan.onnx import attach_functions, translation_table

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return bidirectional_selective_scan(*tensors)

    options = {"dynamo": True, "opset_version": 18, "custom_translation_table": translation_table(), "verbose": False}
    program = torch.onnx.export(Module().eval(), tuple(inputs), input_names=list(ScanInputs._fields), **options)
    attach_functions(program)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), session_options, providers=["CPUExecutionProvider"]
    )
    arrays = {name: t.numpy() for name, t in inputs._asdict().items()}
    return lambda *_: torch.from_numpy(session.run(None, arrays)[0])


def _mamba_ssm(inputs):
    """mamba-ssm's CUDA kernel, once a direction, the backward one on flipped copies: what VideoMamba does."""
    interface = pytest.importorskip("mamba_ssm.ops.selective_scan_interface", exc_type=ImportError)

    def run(u, delta, A, B, C, D, z, delta_bias):
        z = z.contiguous()

        def one(i, tensors):
            u, delta, B, C, z = tensors
            return interface.selective_scan_fn(u, delta, A[i], B, C, D[i], z, delta_bias[i], delta_softplus=True)

        forward = one(0, (u[:, 0], delta[:, 0], B[:, 0], C[:, 0], z))
        flipped = [t.flip(-1) for t in (u[:, 1], delta[:, 1], B[:, 1], C[:, 1], z)]
        return forward + one(1, flipped).flip(-1)

    return run


def _backend(name):
    return lambda inputs: lambda *tensors: bidirectional_selective_scan(*tensors, backend=name)


def _compiled(inputs):
    """torch.compile of 32 tokens of the loop at a time: all of them in one graph do not compile in minutes."""
    from diffvqa_kernels.selective_scan.chunked import CHUNK, _Scan

    @torch.compile(dynamic=False)
    def advance(h, step, u, A, B, C):
        y = []
        for k in range(len(step)):
            decay = torch.exp(step[k].unsqueeze(-2) * A)
            h = decay * h + (step[k] * u[k]).unsqueeze(-2) * B[k].unsqueeze(-1)
            y.append((h * C[k].unsqueeze(-1)).sum(-2))
        return h, torch.stack(y)

    def run(u, delta, A, B, C, D, z, delta_bias):
        scan = _Scan(ScanInputs(u, delta, A, B, C, D, z, delta_bias))
        h = scan.zero_state()
        pieces = []
        for start in range(0, u.shape[-1], CHUNK):
            tokens = slice(start, start + CHUNK)
            h, y = advance(h, scan.step[tokens], scan.u[tokens], scan.A, scan.B[tokens], scan.C[tokens])
            pieces.append(y)
        y = scan.to_natural_order(torch.cat(pieces) + scan.u * scan.D)
        return (y.sum(1) * torch.nn.functional.silu(z.float())).to(u.dtype)

    return run


PROVIDERS: dict[str, Callable[[ScanInputs], Scan]] = {
    "ours (chunked)": _backend("chunked"),
    BASELINE: lambda inputs: bidirectional_selective_scan_reference,
}
if HAS_GPU:
    PROVIDERS |= {"ours": _backend("triton"), "mamba-ssm": _mamba_ssm, "torch_compile": _compiled}
else:
    PROVIDERS |= {"ours (numba)": _backend("numba"), "onnxruntime": _onnxruntime}
