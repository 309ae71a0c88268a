"""The selective scan for ONNX: one node, `diffvqa::BidirectionalSelectiveScan`.

The node carries its meaning as a model-local function in standard operators (opset 18), so any runtime executes it,
and one that has a kernel of that name takes the kernel instead. Both directions advance as one batch in an ONNX
`Scan` whose state is [batch, direction, d_state, dim]. Nothing divides by a cumulative product, so large Δ are safe.

    program = torch.onnx.export(..., dynamo=True, opset_version=18, custom_translation_table=translation_table())
    attach_functions(program)
    program.save("model.onnx")
"""

from typing import Literal

import onnx
import onnx.defs
import onnx.parser
import onnx_ir
import onnxscript
import torch

from diffvqa_kernels.selective_scan import operators  # noqa: F401  (defines torch.ops.diffvqa)
from diffvqa_kernels.selective_scan.inputs import ScanInputs

DOMAIN = "diffvqa"
DOMAIN_VERSION = 1
OPSET_VERSION = 18
_OP = "BidirectionalSelectiveScan"

ScanRuntime = Literal["any", "tensorrt"]
TENSORRT_PLUGINS = ("scan_chunk_states", "scan_carry_states", "scan_chunk_outputs")
"""The nodes that a model for TensorRT has in the place of a `Scan` (`tensorrt.py`)."""

_CONSTANTS = """
    one = Constant<value_float = 1.0>()
    direction_axis = Constant<value_ints = [1]>()
    last = Constant<value_ints = [-1]>()
    second_last = Constant<value_ints = [-2]>()
    before_start = Constant<value_ints = [-9223372036854775807]>()
"""

# log(1 + t) as log(w) · t / (w − 1) with w the rounded 1 + t: ONNX Runtime's own Softplus computes log(1 + exp(x)),
# which loses half of the digits at Δ ≈ 1e-3, where Mamba's step sizes start.
_SOFTPLUS = """
    bias = Unsqueeze(bias_32, last)
    raw = Add(delta_32, bias)
    magnitude = Abs(raw)
    exponent = Neg(magnitude)
    t = Exp(exponent)
    w = Add(one, t)
    log_w = Log(w)
    w_minus_one = Sub(w, one)
    correction = Div(t, w_minus_one)
    corrected = Mul(log_w, correction)
    is_tiny = Equal(w, one)
    log1p = Where(is_tiny, t, corrected)
    positive = Relu(raw)
    step = Add(positive, log1p)
    step_u = Mul(step, u_32)
"""

_SCAN = """
    step_k = Unsqueeze(step_ordered, second_last)
    step_u_k = Unsqueeze(step_u_ordered, second_last)
    B_k = Unsqueeze(B_ordered, last)
    C_k = Unsqueeze(C_ordered, second_last)
    A_t = Transpose<perm = [0, 2, 1]>(A_32)
    A_shape = Shape(A_t)
    batch = Shape<start = 0, end = 1>(u)
    state_shape = Concat<axis = 0>(batch, A_shape)
    h_0 = ConstantOfShape(state_shape)
    h_last, y_k = Scan<num_scan_inputs = 4, body = step_body
        (float[batch, directions, d_state, dim] h,
         float[batch, directions, 1, dim] delta_k, float[batch, directions, 1, dim] delta_u_k,
         float[batch, directions, d_state, 1] b_k, float[batch, directions, 1, d_state] c_k)
        => (float[batch, directions, d_state, dim] h_next, float[batch, directions, 1, dim] y)
        {
            log_decay = Mul(delta_k, A_t)
            decay = Exp(log_decay)
            kept = Mul(decay, h)
            added = Mul(b_k, delta_u_k)
            h_next = Add(kept, added)
            y = MatMul(c_k, h_next)
        }>(h_0, step_k, step_u_k, B_k, C_k)
    y_squeezed = Squeeze(y_k, second_last)
    y_ordered = Transpose<perm = [1, 2, 3, 0]>(y_squeezed)
"""


def _casts(**sources: str) -> str:
    """`name_32` = the source in float32, for each name."""
    return "".join(f"    {name}_32 = Cast<to = 1>({source})\n" for name, source in sources.items())


def _scan_order(source: str, target: str) -> str:
    """[batch, direction, size, length] to [length, batch, direction, size], each direction in the order of its scan."""
    return f"""
    {target}_forward, {target}_backward = Split<axis = 1, num_outputs = 2>({source})
    {target}_flipped = Slice({target}_backward, last, before_start, last, last)
    {target}_joined = Concat<axis = 1>({target}_forward, {target}_flipped)
    {target} = Transpose<perm = [3, 0, 1, 2]>({target}_joined)
"""


def _function(body: str) -> onnx.FunctionProto:
    header = f'<opset_import: ["" : {OPSET_VERSION}, "{DOMAIN}" : {DOMAIN_VERSION}], domain: "{DOMAIN}">'
    return onnx.parser.parse_function(f"{header}\n{_OP} ({', '.join(ScanInputs._fields)}) => (out) {{\n{body}\n}}")


def standard_function() -> onnx.FunctionProto:
    """`BidirectionalSelectiveScan(u, delta, A, B, C, D, z, delta_bias) → out`, shapes as the torch operator's."""
    body = (
        _CONSTANTS
        + _casts(u="u", delta="delta", A="A", B="B", C="C", D="D", z="z", bias="delta_bias")
        + _SOFTPLUS
        + _scan_order("step", "step_ordered")
        + _scan_order("step_u", "step_u_ordered")
        + _scan_order("B_32", "B_ordered")
        + _scan_order("C_32", "C_ordered")
        + _SCAN
        + """
    y_forward, y_backward_flipped = Split<axis = 1, num_outputs = 2>(y_ordered)
    y_backward = Slice(y_backward_flipped, last, before_start, last, last)
    y_both = Add(y_forward, y_backward)
    y_sum = Squeeze(y_both, direction_axis)
    D_column = Unsqueeze(D_32, last)
    skips = Mul(u_32, D_column)
    skip = ReduceSum<keepdims = 0>(skips, direction_axis)
    y_total = Add(y_sum, skip)
    gate_sigmoid = Sigmoid(z_32)
    gate = Mul(z_32, gate_sigmoid)
    out_32 = Mul(y_total, gate)
    out = CastLike(out_32, u)
"""
    )
    return _function(body)


def tensorrt_function() -> onnx.FunctionProto:
    """`BidirectionalSelectiveScan` in terms of the plugins of `tensorrt.py`."""
    plugin = 'plugin_namespace = "diffvqa", plugin_version = "1", aot = 1'
    body = f"""
    states, step_sums = diffvqa.scan_chunk_states<{plugin}>(u, delta, A, B, delta_bias)
    carried = diffvqa.scan_carry_states<{plugin}>(states, step_sums, A)
    partial, out = diffvqa.scan_chunk_outputs<{plugin}>(u, delta, A, B, C, D, z, delta_bias, carried)
"""
    return _function(body)


def _register_schema() -> None:
    if onnx.defs.has(_OP, DOMAIN):
        return
    parameter = onnx.defs.OpSchema.FormalParameter
    float_types = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    onnx.defs.register_schema(
        onnx.defs.OpSchema(
            _OP,
            DOMAIN,
            DOMAIN_VERSION,
            inputs=[parameter(name, f"T_{name}") for name in ScanInputs._fields],
            outputs=[parameter("out", "T_u")],
            type_constraints=[(f"T_{name}", float_types, "") for name in ScanInputs._fields],
        )
    )


_register_schema()
_ops = onnxscript.values.Opset(DOMAIN, DOMAIN_VERSION)


def _translate(u, delta, A, B, C, D, z, delta_bias, backend: str = "auto"):
    return _ops.BidirectionalSelectiveScan(u, delta, A, B, C, D, z, delta_bias)


def translation_table() -> dict:
    """The `custom_translation_table` for `torch.onnx.export(..., dynamo=True, opset_version=18)`."""
    return {torch.ops.diffvqa.bidirectional_selective_scan.default: _translate}


def attach_functions(program: torch.onnx.ONNXProgram, *, runtime: ScanRuntime = "any") -> None:
    """Put the body of our nodes into `program.model.functions`; without it a stock runtime refuses the model.

    To be called after `torch.onnx.export`, not through the translation table: the exporter inlines what it is given.

    Args:
        program: an export with `translation_table()`; changed in place.
        runtime: "any" for standard operators, "tensorrt" for the plugins of `tensorrt.py`.

    Raises:
        ValueError: an unknown runtime.
    """
    bodies = {"any": standard_function, "tensorrt": tensorrt_function}
    if runtime not in bodies:
        raise ValueError(f"runtime={runtime!r}: expected one of {', '.join(bodies)}")
    if all(node.domain != DOMAIN for node in program.model.graph.all_nodes()):
        return
    function = onnx_ir.serde.deserialize_function(bodies[runtime]())
    # The body's operators mean the same in every opset from 18 on, and a checker wants one opset in a model.
    function.opset_imports[""] = program.model.opset_imports[""]
    program.model.functions[function.identifier()] = function
    program.model.opset_imports[DOMAIN] = DOMAIN_VERSION
