"""The selective scan beside what one would use without it, and beside the hardware's bounds.

    pytest benchmarks/test_selective_scan.py --benchmark-only

On a CPU: our torch paths and the ONNX form beside the eager loop. On a GPU: the Triton kernels beside mamba-ssm's CUDA
kernel called twice with flips (where it is installed), `torch.compile` of the reference, a copy of the same bytes and
as many exponentials. Every output is checked before it is timed. On a CPU every provider takes turns with the eager
loop, round by round.
"""

import pytest
import torch
from diffvqa_kernels import testing
from diffvqa_kernels.selective_scan import bidirectional_selective_scan
from diffvqa_kernels.selective_scan.inputs import ScanInputs
from scans import BASELINE, HAS_GPU, PROVIDERS

DEVICE = "cuda" if HAS_GPU else "cpu"
# (batch, dim, d_state, length): the tiny preset's TCAB, and the paper's.
CPU_SHAPES = [(1, 128, 16, 1153), (1, 384, 16, 4609)]
GPU_SHAPES = [(2, 384, 16, 4609), (1, 384, 16, 4609), (16, 384, 16, 4609)]
SHAPES = GPU_SHAPES if HAS_GPU else CPU_SHAPES
DTYPE = torch.bfloat16 if HAS_GPU else torch.float32
ROUNDS = 20 if HAS_GPU else 5
ROUNDS_WITH_BACKWARD = 3
L2_BYTES = 256 * 2**20


def _inputs(shape, provider):
    """Each in the layout that it reads best: ours with contiguous channels, as linear layers before it leave them."""
    inputs = testing.bidirectional_inputs(*shape, dtype=DTYPE, device=DEVICE)
    if provider != "ours":
        return inputs
    return testing.map_per_token(inputs, lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2))


def _time(benchmark, run, shape, label, provider):
    """Timed with the L2 cache cleared before each round and the GPU waited for inside it."""
    _describe(benchmark, shape, label, provider)
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


def _describe(benchmark, shape, label, provider):
    benchmark.group = f"selective_scan: {label}, batch {shape[0]}, dim {shape[1]}, length {shape[3]}, {DTYPE}"
    device = torch.cuda.get_device_name() if HAS_GPU else f"CPU, {torch.get_num_threads()} threads"
    benchmark.extra_info |= {"device": device, "shape": list(shape), "dtype": str(DTYPE)}
    benchmark.extra_info |= {"provider": provider, "baseline": provider == BASELINE}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_forward(benchmark, time_in_turns, provider, shape):
    inputs = _inputs(shape, provider)
    run = PROVIDERS[provider](inputs)
    want = bidirectional_selective_scan(*testing.in_float64(inputs), backend="chunked")
    tolerance = testing.FORWARD_TOLERANCE[DTYPE] * (2 if provider == "mamba-ssm" else 1)
    testing.assert_close(run(*inputs), want, tolerance)
    if HAS_GPU:
        _time(benchmark, lambda: run(*inputs), shape, "forward", provider)
        return
    _describe(benchmark, shape, "forward", provider)
    baseline = PROVIDERS[BASELINE](inputs)
    baselines = {} if provider == BASELINE else {BASELINE: lambda: baseline(*inputs)}
    time_in_turns(lambda: run(*inputs), baselines, ROUNDS, is_warm=True)


@pytest.mark.parametrize("shape", SHAPES[:1], ids=str)
@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name not in ("onnxruntime", "torch_compile")])
def test_forward_and_backward(benchmark, time_in_turns, provider, shape):
    leaves = ScanInputs(*(t.requires_grad_() for t in _inputs(shape, provider)))
    grad_out = torch.ones_like(leaves.z)

    def gradients_by(name):
        scan = PROVIDERS[name](leaves)
        return lambda: torch.autograd.grad(scan(*leaves), leaves, grad_out)

    run, baseline = gradients_by(provider), gradients_by(BASELINE)
    tolerance = 2 * testing.GRADIENT_TOLERANCE[DTYPE]  # both sides round
    for name, got, want in zip(ScanInputs._fields, run(), baseline(), strict=True):
        testing.assert_close(got, want, tolerance, f"the gradient of {name}")
    if HAS_GPU:
        _time(benchmark, run, shape, "forward + backward", provider)
        return
    _describe(benchmark, shape, "forward + backward", provider)
    time_in_turns(run, {} if provider == BASELINE else {BASELINE: baseline}, ROUNDS_WITH_BACKWARD, is_warm=True)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_memory_bound(benchmark, shape):
    """A copy that reads and writes as many bytes as the forward must: its inputs once and its output once."""
    inputs = _inputs(shape, "bound")
    needed_bytes = sum(t.numel() * t.element_size() for t in (*inputs, inputs.z))
    source = torch.empty(needed_bytes // 2, dtype=torch.int8, device=DEVICE)
    target = torch.empty_like(source)
    benchmark.extra_info["bytes"] = needed_bytes
    _time(benchmark, lambda: target.copy_(source), shape, "forward", "a copy of the same bytes")


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
    _time(benchmark, lambda: exponentials(out, each=64), shape, "forward", "as many exponentials")
