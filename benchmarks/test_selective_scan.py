"""The selective scan beside what one would use without it, and beside the hardware's bounds.

    pytest benchmarks/test_selective_scan.py --benchmark-group-by=group --benchmark-columns=min,median

On a CPU: our torch paths and the ONNX form beside the eager loop. On a GPU: the Triton kernels beside mamba-ssm's CUDA
kernel called twice with flips (where it is installed), `torch.compile` of the reference, a copy of the same bytes and
as many exponentials. Every output is checked before it is timed. On a CPU every provider's forward takes turns with the
eager loop, round by round.
"""

import pytest
import torch
from diffvqa_kernels import testing
from diffvqa_kernels.selective_scan import bidirectional_selective_scan, bidirectional_selective_scan_reference

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
# (batch, dim, d_state, length): the tiny preset's TCAB, and the paper's.
CPU_SHAPES = [(1, 128, 16, 1153), (1, 384, 16, 4609)]
GPU_SHAPES = [(2, 384, 16, 4609), (1, 384, 16, 4609), (16, 384, 16, 4609)]
SHAPES = GPU_SHAPES if HAS_GPU else CPU_SHAPES
DTYPE = torch.bfloat16 if HAS_GPU else torch.float32
ROUNDS = 20 if HAS_GPU else 5
L2_BYTES = 256 * 2**20


def _onnxruntime(inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    from diffvqa_kernels.selective_scan.onnx import attach_functions, translation_table

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return bidirectional_selective_scan(*tensors)

    options = {"dynamo": True, "opset_version": 18, "custom_translation_table": translation_table(), "verbose": False}
    program = torch.onnx.export(Module().eval(), inputs, input_names=list(testing.ARGUMENTS), **options)
    attach_functions(program)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), session_options, providers=["CPUExecutionProvider"]
    )
    arrays = {name: t.numpy() for name, t in zip(testing.ARGUMENTS, inputs, strict=True)}
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
        scan = _Scan(u, delta, A, B, C, delta_bias, (False, True))
        h = scan.u.new_zeros(scan.batch, *scan.A.shape)
        pieces = []
        for start in range(0, u.shape[-1], CHUNK):
            tokens = slice(start, start + CHUNK)
            h, y = advance(h, scan.step[tokens], scan.u[tokens], scan.A, scan.B[tokens], scan.C[tokens])
            pieces.append(y)
        y = scan.to_natural_order(torch.cat(pieces) + scan.u * D.float())
        return (y.sum(1) * torch.nn.functional.silu(z.float())).to(u.dtype)

    return run


PROVIDERS = {"ours (chunked)": _backend("chunked"), "pytorch": lambda inputs: bidirectional_selective_scan_reference}
if HAS_GPU:
    PROVIDERS |= {"ours": _backend("triton"), "mamba-ssm": _mamba_ssm, "torch_compile": _compiled}
else:
    PROVIDERS |= {"ours (numba)": _backend("numba"), "onnxruntime": _onnxruntime}


def _inputs(shape, provider):
    """Each in the layout that it reads best: ours with contiguous channels, as linear layers before it leave them."""
    inputs = testing.bidirectional_inputs(*shape, dtype=DTYPE, device=DEVICE)
    if provider != "ours":
        return inputs
    per_token = ("u", "delta", "B", "C", "z")
    return tuple(
        t.transpose(-1, -2).contiguous().transpose(-1, -2) if name in per_token else t
        for name, t in zip(testing.ARGUMENTS, inputs, strict=True)
    )


def _time(benchmark, run, shape, label):
    """Timed with the L2 cache cleared before each round and the GPU waited for inside it."""
    _describe(benchmark, shape, label)
    scrub = torch.empty(L2_BYTES if HAS_GPU else 1, dtype=torch.int8, device=DEVICE)

    def synchronised():
        run()
        if HAS_GPU:
            torch.cuda.synchronize()

    def clear():
        scrub.zero_()
        if HAS_GPU:
            torch.cuda.synchronize()

    benchmark.pedantic(synchronised, setup=clear, rounds=ROUNDS, warmup_rounds=2)


def _describe(benchmark, shape, label):
    benchmark.group = f"selective_scan {label} batch {shape[0]}, dim {shape[1]}, length {shape[3]}, {DTYPE}"
    device = torch.cuda.get_device_name() if HAS_GPU else f"CPU, {torch.get_num_threads()} threads"
    benchmark.extra_info.update(device=device, torch=torch.__version__, shape=list(shape), dtype=str(DTYPE))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_forward(benchmark, time_in_turns, provider, shape):
    inputs = _inputs(shape, provider)
    run = PROVIDERS[provider](inputs)
    want = bidirectional_selective_scan(*testing.in_float64(inputs), backend="chunked")
    tolerance = testing.FORWARD_TOLERANCE[DTYPE] * (2 if provider == "mamba-ssm" else 1)
    testing.assert_close(run(*inputs), want, tolerance)
    if HAS_GPU:
        _time(benchmark, lambda: run(*inputs), shape, "forward")
        return
    _describe(benchmark, shape, "forward")
    baseline = PROVIDERS["pytorch"](inputs)
    time_in_turns(lambda: run(*inputs), {"pytorch": lambda: baseline(*inputs)}, ROUNDS)


@pytest.mark.parametrize("shape", SHAPES[:1], ids=str)
@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name not in ("onnxruntime", "torch_compile")])
def test_forward_and_backward(benchmark, provider, shape):
    leaves = [t.requires_grad_() for t in _inputs(shape, provider)]
    run = PROVIDERS[provider](leaves)
    grad_out = torch.ones_like(leaves[6])
    _time(benchmark, lambda: torch.autograd.grad(run(*leaves), leaves, grad_out), shape, "forward + backward")


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_memory_bound(benchmark, shape):
    """A copy that reads and writes as many bytes as the forward must: its inputs once and its output once."""
    inputs = _inputs(shape, "bound")
    needed_bytes = sum(t.numel() * t.element_size() for t in (*inputs, inputs[6]))
    source = torch.empty(needed_bytes // 2, dtype=torch.int8, device=DEVICE)
    target = torch.empty_like(source)
    benchmark.extra_info["bytes"] = needed_bytes
    _time(benchmark, lambda: target.copy_(source), shape, "forward")


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exponentials_bound(benchmark, shape):
    """As many exponentials as the forward needs once over, kept in registers by a kernel that does nothing else."""
    triton = pytest.importorskip("triton")
    from diffvqa_kernels.selective_scan.bounds import exponentials

    batch, dim, d_state, length = shape
    count = 2 * batch * dim * d_state * length
    out = torch.empty(triton.cdiv(count, 64), device=DEVICE)
    benchmark.extra_info["exponentials"] = count
    _time(benchmark, lambda: exponentials(out, each=64), shape, "forward")
