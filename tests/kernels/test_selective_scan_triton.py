"""The Triton kernels: in the interpreter on a CPU, natively where there is a GPU."""

import pytest
import torch
from diffvqa_kernels import testing
from diffvqa_kernels.selective_scan import bidirectional_selective_scan, bidirectional_selective_scan_reference
from diffvqa_kernels.selective_scan.inputs import ScanInputs

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Interpreted, a chunk is 16 tokens and a tile 4 tokens of 8 channels; every element of a scan costs 70 µs.
SHAPES = [(1, 1, 1, 1), (1, 3, 2, 5), (1, 9, 2, 35)]
GPU_SHAPES = [(2, 384, 16, 4609), (3, 130, 16, 127), (1, 40, 33, 200), (1, 24, 64, 65)]


def _inputs(shape, **options):
    return testing.bidirectional_inputs(*shape, device=DEVICE, **options)


def _gradients(run, inputs, grad_out):
    leaves = [t.clone().requires_grad_() for t in inputs]
    return torch.autograd.grad(run(*leaves), leaves, grad_out)


def _assert_gradients_close(inputs, tolerance):
    def triton(*tensors):
        return bidirectional_selective_scan(*tensors, backend="triton")

    def chunked(*tensors):
        return bidirectional_selective_scan(*tensors, backend="chunked")

    grad_out = torch.randn(inputs.z.shape, generator=torch.Generator().manual_seed(1)).to(inputs.z)
    got = _gradients(triton, inputs, grad_out)
    want = _gradients(chunked, testing.in_float64(inputs), grad_out.double())
    for name, tensor, expected in zip(ScanInputs._fields, got, want, strict=True):
        testing.assert_close(tensor, expected, tolerance, f"gradient of {name}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("is_adversarial", [False, True], ids=["ordinary", "adversarial"])
def test_forward_matches_float64(shape, is_adversarial, uninitialised_memory_is_nan):
    inputs = _inputs(shape, is_adversarial=is_adversarial)
    want = bidirectional_selective_scan_reference(*testing.in_float64(inputs))
    got = bidirectional_selective_scan(*inputs, backend="triton")
    testing.assert_close(got, want, testing.FORWARD_TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rounds_once(dtype):
    inputs = _inputs((1, 5, 2, 18), dtype=dtype)
    want = bidirectional_selective_scan_reference(*testing.in_float64(inputs))
    got = bidirectional_selective_scan(*inputs, backend="triton")
    assert got.dtype == dtype
    # The interpreter truncates to bfloat16, so its error is a whole last place.
    tolerance = 1e-2 if DEVICE == "cpu" and dtype == torch.bfloat16 else testing.FORWARD_TOLERANCE[dtype]
    testing.assert_close(got, want, tolerance)


def test_strided_inputs_and_outputs():
    contiguous = _inputs((1, 3, 2, 18))
    strided = ScanInputs(*(t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in contiguous))
    out = bidirectional_selective_scan(*strided, backend="triton")
    assert out.stride() == strided.z.stride()
    assert torch.equal(out, bidirectional_selective_scan(*contiguous, backend="triton"))


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("is_adversarial", [False, True], ids=["ordinary", "adversarial"])
def test_gradients_match_float64(shape, is_adversarial, uninitialised_memory_is_nan):
    inputs = _inputs(shape, is_adversarial=is_adversarial)
    _assert_gradients_close(inputs, testing.GRADIENT_TOLERANCE[torch.float32])


def test_gradients_across_chunks():
    _assert_gradients_close(_inputs((1, 9, 2, 19)), testing.GRADIENT_TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_traced_launches_give_the_same_bits(dtype, uninitialised_memory_is_nan):
    from diffvqa_kernels.selective_scan.forward import forward

    inputs = _inputs((1, 3, 2, 18), dtype=dtype)
    got = forward(inputs, is_traced=True)
    assert torch.equal(got, bidirectional_selective_scan(*inputs, backend="triton"))


def test_float64_is_refused():
    with pytest.raises(TypeError, match="float64"):
        bidirectional_selective_scan(*testing.in_float64(_inputs((1, 2, 2, 3))), backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", list(testing.FORWARD_TOLERANCE), ids=str)
@pytest.mark.parametrize("shape", GPU_SHAPES, ids=str)
@pytest.mark.parametrize("is_adversarial", [False, True], ids=["ordinary", "adversarial"])
def test_on_gpu(shape, dtype, is_adversarial, uninitialised_memory_is_nan):
    inputs = _inputs(shape, dtype=dtype, is_adversarial=is_adversarial)
    want = bidirectional_selective_scan(*testing.in_float64(inputs), backend="chunked")
    got = bidirectional_selective_scan(*inputs, backend="triton")
    testing.assert_close(got, want, testing.FORWARD_TOLERANCE[dtype])
    assert torch.equal(got, bidirectional_selective_scan(*inputs, backend="triton"))
    _assert_gradients_close(inputs, testing.GRADIENT_TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
def test_every_tile_shape_gives_the_same_bits(monkeypatch):
    from diffvqa_kernels.selective_scan import forward, tuning

    inputs = _inputs((2, 128, 16, 500), dtype=torch.bfloat16)
    outputs = []
    for config in tuning.prune(tuning.tile_configs(), {}, BLOCK_N=16):
        for kernel in (forward._chunk_states, forward._chunk_outputs):
            monkeypatch.setattr(kernel, "configs", [config])
        monkeypatch.setattr(tuning, "_chosen", {})
        outputs.append(bidirectional_selective_scan(*inputs, backend="triton"))
    assert all(torch.equal(out, outputs[0]) for out in outputs)
