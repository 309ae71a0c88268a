import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffvqa_kernels import testing
from diffvqa_kernels.selective_scan import (
    backends,
    bidirectional_selective_scan,
    bidirectional_selective_scan_reference,
)
from diffvqa_kernels.selective_scan.inputs import ScanInputs
from hypothesis import given, settings
from hypothesis import strategies as st

CPU_BACKENDS = ("numba", "chunked")
# Length 1, one short of and one past a tile and a chunk; dims that are no multiple of a block.
SHAPES = [(1, 1, 1, 1), (3, 5, 3, 15), (1, 65, 4, 33), (2, 70, 16, 65), (1, 8, 33, 127)]


def _assert_gradients_close(inputs, backend, tolerance):
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = bidirectional_selective_scan(*leaves, backend=backend)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    got = torch.autograd.grad(out, leaves, grad_out)
    doubles = [t.double().requires_grad_() for t in inputs]
    want = torch.autograd.grad(bidirectional_selective_scan_reference(*doubles), doubles, grad_out.double())
    for name, tensor, expected in zip(ScanInputs._fields, got, want, strict=True):
        testing.assert_close(tensor, expected, tolerance, f"gradient of {name}")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("is_adversarial", [False, True], ids=["ordinary", "adversarial"])
def test_forward_matches_float64(backend, shape, is_adversarial, uninitialised_memory_is_nan):
    inputs = testing.bidirectional_inputs(*shape, is_adversarial=is_adversarial)
    want = bidirectional_selective_scan_reference(*testing.in_float64(inputs))
    got = bidirectional_selective_scan(*inputs, backend=backend)
    testing.assert_close(got, want, testing.FORWARD_TOLERANCE[torch.float32])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rounds_once(backend, dtype):
    inputs = testing.bidirectional_inputs(2, 24, 16, 40, dtype=dtype)
    got = bidirectional_selective_scan(*inputs, backend=backend)
    assert got.dtype == dtype
    want = bidirectional_selective_scan_reference(*testing.in_float64(inputs))
    testing.assert_close(got, want, testing.FORWARD_TOLERANCE[dtype])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 70, 5, 33)], ids=str)
@pytest.mark.parametrize("is_adversarial", [False, True], ids=["ordinary", "adversarial"])
def test_gradients_match_float64(backend, shape, is_adversarial, uninitialised_memory_is_nan):
    inputs = testing.bidirectional_inputs(*shape, is_adversarial=is_adversarial)
    _assert_gradients_close(inputs, backend, testing.GRADIENT_TOLERANCE[torch.float32])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradients_in_bfloat16(backend):
    inputs = testing.bidirectional_inputs(2, 8, 4, 20, dtype=torch.bfloat16)
    _assert_gradients_close(inputs, backend, testing.GRADIENT_TOLERANCE[torch.bfloat16])


def test_gradcheck():
    leaves = [t.requires_grad_() for t in testing.in_float64(testing.bidirectional_inputs(2, 2, 2, 4))]
    assert torch.autograd.gradcheck(bidirectional_selective_scan, leaves)
    want = bidirectional_selective_scan_reference(*leaves)
    testing.assert_close(bidirectional_selective_scan(*leaves), want, 1e-12)


@pytest.mark.parametrize("is_strided", [False, True], ids=["contiguous", "channels_last"])
def test_opcheck(is_strided):
    inputs = testing.bidirectional_inputs(2, 6, 3, 5)
    if is_strided:
        inputs = ScanInputs(*(t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in inputs))
    leaves = tuple(t.requires_grad_() for t in inputs)
    torch.library.opcheck(torch.ops.diffvqa.bidirectional_selective_scan.default, leaves)


def test_compile_and_export_see_one_node():
    inputs = testing.bidirectional_inputs(2, 6, 3, 5)

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return bidirectional_selective_scan(*tensors) * 2

    want = Module()(*inputs)
    torch.testing.assert_close(torch.compile(Module(), backend="aot_eager", fullgraph=True)(*inputs), want)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    grouped, weight = {0: batch, 3: length}, {}
    shapes = (grouped, grouped, weight, grouped, grouped, weight, {0: batch, 2: length}, weight)
    program = torch.export.export(Module(), tuple(inputs), dynamic_shapes=(shapes,))
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.diffvqa.bidirectional_selective_scan.default) == 1
    other = testing.bidirectional_inputs(3, 6, 3, 11)
    torch.testing.assert_close(program.module()(*other), Module()(*other))


_sizes = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 20), st.integers(1, 70))
_examples = settings(max_examples=20, deadline=None)


@_examples
@given(sizes=_sizes, seed=st.integers(0, 999), is_adversarial=st.booleans(), backend=st.sampled_from(CPU_BACKENDS))
def test_any_shape_matches_float64(sizes, seed, is_adversarial, backend):
    inputs = testing.bidirectional_inputs(*sizes, seed=seed, is_adversarial=is_adversarial)
    want = bidirectional_selective_scan(*testing.in_float64(inputs), backend="chunked")
    got = bidirectional_selective_scan(*inputs, backend=backend)
    testing.assert_close(got, want, testing.FORWARD_TOLERANCE[torch.float32])


@_examples
@given(sizes=_sizes, seed=st.integers(0, 999), backend=st.sampled_from(CPU_BACKENDS))
def test_the_backward_direction_is_flip_scan_flip(sizes, seed, backend):
    inputs = testing.bidirectional_inputs(*sizes, seed=seed)
    u, delta, A, B, C, D, z, bias = testing.map_per_token(inputs, lambda t: t.flip(-1))
    swapped = (u.flip(1), delta.flip(1), A.flip(0), B.flip(1), C.flip(1), D.flip(0), z, bias.flip(0))
    got = bidirectional_selective_scan(*swapped, backend=backend).flip(-1)
    torch.testing.assert_close(got, bidirectional_selective_scan(*inputs, backend=backend), rtol=1e-5, atol=1e-5)


@_examples
@given(sizes=_sizes, seed=st.integers(0, 999), backend=st.sampled_from(CPU_BACKENDS))
def test_the_forward_direction_ignores_the_future(sizes, seed, backend):
    inputs = testing.bidirectional_inputs(*sizes, seed=seed)
    inputs.C[:, 1], inputs.D[1] = 0, 0  # nothing comes out of the backward direction
    kept = sizes[-1] // 2 + 1
    got = bidirectional_selective_scan(*testing.map_per_token(inputs, lambda t: t[..., :kept]), backend=backend)
    want = bidirectional_selective_scan(*inputs, backend=backend)[..., :kept]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@_examples
@given(sizes=_sizes, seed=st.integers(0, 999), backend=st.sampled_from(CPU_BACKENDS))
def test_linear_in_u(sizes, seed, backend):
    u, *rest = testing.bidirectional_inputs(*sizes, seed=seed)
    v = torch.roll(u, 1, dims=-1)
    got = bidirectional_selective_scan(2 * u - v, *rest, backend=backend)
    want = 2 * bidirectional_selective_scan(u, *rest, backend=backend)
    want -= bidirectional_selective_scan(v, *rest, backend=backend)
    testing.assert_close(got, want, 1e-5)


@_examples
@given(sizes=_sizes, seed=st.integers(0, 999))
def test_a_row_is_the_same_in_any_batch(sizes, seed):
    inputs = testing.bidirectional_inputs(*sizes, seed=seed)
    whole = bidirectional_selective_scan(*inputs, backend="numba")
    for row in range(sizes[0]):
        alone = testing.map_per_token(inputs, lambda t, row=row: t[row : row + 1])
        assert torch.equal(bidirectional_selective_scan(*alone, backend="numba"), whole[row : row + 1])


def test_numba_is_the_same_on_any_number_of_threads():
    inputs = testing.bidirectional_inputs(2, 130, 4, 50)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = bidirectional_selective_scan(*inputs, backend="numba")
        torch.set_num_threads(3)
        assert torch.equal(bidirectional_selective_scan(*inputs, backend="numba"), want)
    finally:
        torch.set_num_threads(threads)


def test_numba_runs_in_several_threads_at_once():
    inputs = testing.bidirectional_inputs(1, 70, 4, 200)
    want = bidirectional_selective_scan(*inputs, backend="numba")
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: bidirectional_selective_scan(*inputs, backend="numba"), range(16)):
            assert torch.equal(out, want)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_nan_and_infinity_in_the_input_are_not_hidden(backend):
    u, *rest = testing.bidirectional_inputs(1, 3, 2, 8)
    for bad in (float("nan"), float("inf")):
        broken = u.clone()
        broken[0, 0, 1, 4] = bad
        out = bidirectional_selective_scan(broken, *rest, backend=backend)
        assert not torch.isfinite(out[0, 1, 4]) and torch.isfinite(out[0, 0]).all()


def test_auto_takes_numba_on_the_cpu_and_torch_for_float64():
    inputs = testing.bidirectional_inputs(1, 3, 2, 5)
    assert backends.resolved("auto", inputs) == "numba"
    assert backends.resolved("auto", testing.in_float64(inputs)) == "chunked"


def test_auto_without_numba_is_torch(monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    backends._automatic.cache_clear()
    try:
        assert backends.resolved("auto", testing.bidirectional_inputs(1, 3, 2, 5)) == "chunked"
    finally:
        backends._automatic.cache_clear()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"delta": torch.zeros(1, 2, 3, 4)}, ValueError, r"delta is \[1, 2, 3, 4\]: expected \[1, 2, 3, 5\]"),
        ({"u": torch.zeros(3, 5)}, ValueError, r"u is \[3, 5\]"),
        ({"z": torch.zeros(1, 3, 5, device="meta")}, ValueError, "z is on meta"),
        ({"u": torch.zeros(1, 2, 3, 5, dtype=torch.int32)}, TypeError, "u is torch.int32"),
        ({"backend": "cuda"}, ValueError, "expected one of auto, triton, numba, chunked"),
    ],
    ids=["delta", "u", "device", "dtype", "backend"],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = testing.bidirectional_inputs(1, 3, 2, 5)._asdict() | change
    with pytest.raises(error, match=message):
        bidirectional_selective_scan(**arguments)


def test_a_named_backend_never_falls_back():
    inputs = testing.in_float64(testing.bidirectional_inputs(1, 3, 2, 5))
    with pytest.raises(TypeError, match=r"numba.*float64.*chunked"):
        bidirectional_selective_scan(*inputs, backend="numba")


def test_import_needs_neither_triton_nor_numba_nor_onnx():
    code = (
        "import sys, diffvqa_kernels.selective_scan as s\n"
        "print([m for m in ('triton.language', 'numba', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
