import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffvqa_kernels import testing
from diffvqa_kernels.selective_scan import bidirectional_selective_scan, bidirectional_selective_scan_reference
from diffvqa_kernels.selective_scan.onnx import DOMAIN, attach_functions, translation_table
from hypothesis import given, settings
from hypothesis import strategies as st

DIM, D_STATE = 6, 3
_ONNX_TYPES = {torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16}


class Bidirectional(torch.nn.Module):
    """Two layers, so that several nodes share a function."""

    def __init__(self, inputs):
        super().__init__()
        self.A, self.D, self.delta_bias = (torch.nn.Parameter(t) for t in (inputs.A, inputs.D, inputs.delta_bias))

    def forward(self, u, delta, B, C, z):
        first = bidirectional_selective_scan(u, delta, self.A, B, C, self.D, z, self.delta_bias)
        again = torch.stack((first, first), dim=1)
        return first, bidirectional_selective_scan(again, delta, self.A, B, C, self.D, z, self.delta_bias)


def _per_token(inputs):
    return {name: getattr(inputs, name) for name in testing.PER_TOKEN}


def _program(module, inputs) -> torch.onnx.ONNXProgram:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=1)
    shapes = {name: {0: batch, 2 if name == "z" else 3: length} for name in testing.PER_TOKEN}
    return torch.onnx.export(
        module.eval(),
        tuple(_per_token(inputs).values()),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=shapes,
        input_names=list(testing.PER_TOKEN),
        custom_translation_table=translation_table(),
        verbose=False,
    )


def _exported(module, inputs) -> onnx.ModelProto:
    program = _program(module, inputs)
    attach_functions(program)
    return program.model_proto


def _run(session, inputs) -> list[torch.Tensor]:
    dtype = inputs.u.dtype
    arrays = {name: t.float().numpy() for name, t in _per_token(inputs).items()}
    if dtype == torch.float32:
        return [torch.from_numpy(out) for out in session.run(None, arrays)]
    # NumPy has no bfloat16, so half precision goes in and out as typed values.
    numpy_type = _ONNX_TYPES[dtype]
    kind = onnx.TensorProto.BFLOAT16 if dtype == torch.bfloat16 else onnx.TensorProto.FLOAT16
    binding = session.io_binding()
    for name, array in arrays.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.astype(numpy_type), kind)
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    session.run_with_iobinding(binding)
    return [torch.from_dlpack(value._ortvalue.to_dlpack()).clone() for value in binding.get_outputs()]


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def weights():
    return testing.bidirectional_inputs(2, DIM, D_STATE, 5, is_adversarial=True)


@pytest.fixture(scope="module")
def model(weights):
    return _exported(Bidirectional(weights), weights)


@pytest.fixture(scope="module")
def session(model):
    return _session(model)


def test_graph_holds_bare_nodes_and_one_function(model):
    nodes = [node.op_type for node in model.graph.node if node.domain == DOMAIN]
    assert nodes == ["BidirectionalSelectiveScan"] * 2
    assert [(function.domain, function.name) for function in model.functions] == [(DOMAIN, nodes[0])]
    onnx.checker.check_model(model)


def test_for_tensorrt_the_function_is_three_plugins(weights):
    program = _program(Bidirectional(weights), weights)
    attach_functions(program, runtime="tensorrt")
    (function,) = program.model_proto.functions
    assert [node.op_type for node in function.node] == ["scan_chunk_states", "scan_carry_states", "scan_chunk_outputs"]
    with pytest.raises(ValueError, match="expected one of any, tensorrt"):
        attach_functions(program, runtime="tflite")


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 3), length=st.integers(1, 140), seed=st.integers(0, 999), is_adversarial=st.booleans())
def test_any_batch_and_length_match_float64(session, weights, batch, length, seed, is_adversarial):
    inputs = testing.bidirectional_inputs(batch, DIM, D_STATE, length, seed=seed, is_adversarial=is_adversarial)
    inputs = inputs._replace(A=weights.A, D=weights.D, delta_bias=weights.delta_bias)
    want = bidirectional_selective_scan_reference(*testing.in_float64(inputs))
    testing.assert_close(_run(session, inputs)[0], want, testing.FORWARD_TOLERANCE[torch.float32])


def test_batch_rows_do_not_see_each_other(session):
    inputs = testing.bidirectional_inputs(3, DIM, D_STATE, 33)
    whole = _run(session, inputs)[0]
    for row in range(3):
        alone = testing.map_per_token(inputs, lambda t, row=row: t[row : row + 1])
        assert torch.equal(_run(session, alone)[0], whole[row : row + 1])


@pytest.mark.parametrize("dtype", list(_ONNX_TYPES), ids=str)
def test_half_precision_rounds_once(dtype):
    inputs = testing.bidirectional_inputs(2, DIM, D_STATE, 20, dtype=dtype)
    module = Bidirectional(inputs)
    got = _run(_session(_exported(module, inputs)), inputs)[0]
    want = bidirectional_selective_scan_reference(*testing.in_float64(inputs))
    testing.assert_close(got, want, testing.FORWARD_TOLERANCE[dtype])
