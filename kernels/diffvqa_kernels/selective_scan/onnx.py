"""The selective scan for ONNX: one node, `diffvqa::BidirectionalSelectiveScan` or `diffvqa::SelectiveScan`.

Each node carries its meaning as a model-local function in standard operators (opset 18), so any runtime executes it,
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

DOMAIN = "diffvqa"
DOMAIN_VERSION = 1
OPSET_VERSION = 18

ScanRuntime = Literal["any", "tensorrt"]
TENSORRT_PLUGINS = ("scan_chunk_states", "scan_carry_states", "scan_chunk_outputs")
"""The nodes that a model for TensorRT has in the place of a `Scan` (`tensorrt.py`)."""

_CONSTANTS = """
    one = Constant<value_float = 1.0>()
    first = Constant<value_ints = [0]>()
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


def _time_major(source: str, target: str) -> str:
    """[batch, direction, size, length] to [length, batch, direction, size]."""
    return f"    {target} = Transpose<perm = [3, 0, 1, 2]>({source})\n"


def _scan_order(source: str, target: str) -> str:
    """`_time_major`, the backward direction from its last token."""
    return f"""
    {target}_forward, {target}_backward = Split<axis = 1, num_outputs = 2>({source})
    {target}_flipped = Slice({target}_backward, last, before_start, last, last)
    {target}_joined = Concat<axis = 1>({target}_forward, {target}_flipped)
""" + _time_major(f"{target}_joined", target)


def _parse(signature: str, body: str) -> onnx.FunctionProto:
    opsets = f'"" : {OPSET_VERSION}, "{DOMAIN}" : {DOMAIN_VERSION}'
    header = f'<opset_import: [{opsets}], domain: "{DOMAIN}">'
    return onnx.parser.parse_function(f"{header}\n{signature} {{\n{body}\n}}")


def bidirectional_function() -> onnx.FunctionProto:
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
    return _parse("BidirectionalSelectiveScan (u, delta, A, B, C, D, z, delta_bias) => (out)", body)


def tensorrt_function() -> onnx.FunctionProto:
    """`BidirectionalSelectiveScan` in terms of the plugins of `tensorrt.py`."""
    plugin = 'plugin_namespace = "diffvqa", plugin_version = "1", aot = 1'
    body = f"""
    states, step_sums = diffvqa.scan_chunk_states<{plugin}>(u, delta, A, B, delta_bias)
    carried = diffvqa.scan_carry_states<{plugin}>(states, step_sums, A)
    partial, out = diffvqa.scan_chunk_outputs<{plugin}>(u, delta, A, B, C, D, z, delta_bias, carried)
"""
    return _parse("BidirectionalSelectiveScan (u, delta, A, B, C, D, z, delta_bias) => (out)", body)


def forward_function() -> onnx.FunctionProto:
    """`SelectiveScan(u, delta, A, B, C, D, delta_bias) → y`: one direction from the first token, without the gate."""
    body = (
        _CONSTANTS
        + _casts(u="u", delta="delta", A_row="A", B_row="B", C_row="C", D="D", bias="delta_bias")
        + _SOFTPLUS
        + """
    A_32 = Unsqueeze(A_row_32, first)
    step_group = Unsqueeze(step, direction_axis)
    step_u_group = Unsqueeze(step_u, direction_axis)
    B_group = Unsqueeze(B_row_32, direction_axis)
    C_group = Unsqueeze(C_row_32, direction_axis)
"""
        + _time_major("step_group", "step_ordered")
        + _time_major("step_u_group", "step_u_ordered")
        + _time_major("B_group", "B_ordered")
        + _time_major("C_group", "C_ordered")
        + _SCAN
        + """
    y_row = Squeeze(y_ordered, direction_axis)
    D_column = Unsqueeze(D_32, last)
    skip = Mul(u_32, D_column)
    y_total = Add(y_row, skip)
    y = CastLike(y_total, u)
"""
    )
    return _parse("SelectiveScan (u, delta, A, B, C, D, delta_bias) => (y)", body)


def _register_schema(name: str, inputs: list[str]) -> None:
    if onnx.defs.has(name, DOMAIN):
        return
    parameter = onnx.defs.OpSchema.FormalParameter
    float_types = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    onnx.defs.register_schema(
        onnx.defs.OpSchema(
            name,
            DOMAIN,
            DOMAIN_VERSION,
            inputs=[parameter(i, f"T_{i}") for i in inputs],
            outputs=[parameter("out", "T_u")],
            type_constraints=[(f"T_{i}", float_types, "") for i in inputs],
        )
    )


_register_schema("BidirectionalSelectiveScan", ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"])
_register_schema("SelectiveScan", ["u", "delta", "A", "B", "C", "D", "delta_bias"])

_ops = onnxscript.values.Opset(DOMAIN, DOMAIN_VERSION)
_standard = onnxscript.opset18


def _translate_bidirectional(u, delta, A, B, C, D, z, delta_bias, backend: str = "auto"):
    return _ops.BidirectionalSelectiveScan(u, delta, A, B, C, D, z, delta_bias)


def _translate(u, delta, A, B, C, D=None, z=None, delta_bias=None, reverse: bool = False, backend: str = "auto"):
    """The node is one direction without options, so a flip, the gate and absent weights are graph operators here."""
    if D is None or delta_bias is None:
        zeros = _standard.CastLike(_standard.ConstantOfShape(_standard.Shape(u, start=1, end=2)), u)
        D = zeros if D is None else D
        delta_bias = zeros if delta_bias is None else delta_bias
    if reverse:
        u, delta, B, C = (_flip(t) for t in (u, delta, B, C))
    y = _ops.SelectiveScan(u, delta, A, B, C, D, delta_bias)
    if reverse:
        y = _flip(y)
    if z is not None:
        y = _standard.Mul(y, _standard.Mul(z, _standard.Sigmoid(z)))
    return y


def _flip(t):
    last = _standard.Constant(value_ints=[-1])
    before_start = _standard.Constant(value_ints=[-9223372036854775807])
    return _standard.Slice(t, last, before_start, last, last)


def translation_table() -> dict:
    """The `custom_translation_table` for `torch.onnx.export(..., dynamo=True, opset_version=18)`."""
    return {
        torch.ops.diffvqa.bidirectional_selective_scan.default: _translate_bidirectional,
        torch.ops.diffvqa.selective_scan.default: _translate,
    }


def attach_functions(program: torch.onnx.ONNXProgram, *, runtime: ScanRuntime = "any") -> None:
    """Put the bodies of our nodes into `program.model.functions`; without them a stock runtime refuses the model.

    To be called after `torch.onnx.export`, not through the translation table: the exporter inlines what it is given.

    Args:
        program: an export with `translation_table()`; changed in place.
        runtime: "any" for standard operators, "tensorrt" for the plugins of `tensorrt.py` in the bidirectional scan.

    Raises:
        ValueError: an unknown runtime.
    """
    bidirectional = {"any": bidirectional_function, "tensorrt": tensorrt_function}
    if runtime not in bidirectional:
        raise ValueError(f"runtime={runtime!r}: expected one of {', '.join(bidirectional)}")
    used = {node.op_type for node in program.model.graph.all_nodes() if node.domain == DOMAIN}
    for proto in (bidirectional[runtime](), forward_function()):
        if proto.name in used:
            function = onnx_ir.serde.deserialize_function(proto)
            # The bodies' operators mean the same in every opset from 18 on, and a checker wants one opset in a model.
            function.opset_imports[""] = program.model.opset_imports[""]
            program.model.functions[function.identifier()] = function
    if used:
        program.model.opset_imports[DOMAIN] = DOMAIN_VERSION
