"""Self-attention as one ONNX node: the kernel of that name and the function in standard operators mean the same."""

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from diffvqa_export.backends.attention import ATTENTION_DOMAIN, attach_attention, translate_attention
from torch import nn
from torch.nn import functional as F

from diffvqa_rt.models.diffvqa.blocks import SelfAttention

HEAD_WIDTH = 8
# Two runtimes' rounding of values up to 1.
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2e-3}


class OfPictures(nn.Module):
    def __init__(self, heads, length):
        super().__init__()
        self.attention, self.length = SelfAttention(heads * HEAD_WIDTH, heads), length

    def forward(self, tokens):
        return self.attention(tokens.flatten(0, 1), self.length).view_as(tokens)


def exported(module, tokens):
    program = torch.onnx.export(
        module.eval(),
        (tokens,),
        dynamo=True,
        opset_version=23,
        dynamic_shapes=({0: torch.export.Dim("pictures", min=1, max=64)},),
        custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: translate_attention},
        verbose=False,
    )
    attach_attention(program)
    onnx.checker.check_model(program.model_proto)
    return program.model_proto


def run(model, tokens, path):
    """The output, and the operators that ONNX Runtime has run."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {model.graph.input[0].name: tokens.numpy()})
    return output, {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("heads", "length"), [(1, 127), (3, 63), (2, 1)])
def test_the_kernel_and_the_standard_operators_agree_with_torch(heads, length, dtype, tmp_path):
    torch.manual_seed(0)
    module = OfPictures(heads, length)
    traced, tokens = (torch.randn(pictures, length, heads * HEAD_WIDTH) for pictures in (2, 5))
    with torch.no_grad():
        expected = module(tokens).numpy()
    model = exported(module.to(dtype), traced.to(dtype))
    by_kernel, kernels = run(model, tokens.to(dtype), tmp_path / "kernel.onnx")
    by_function, operators = run(
        onnx.inliner.inline_local_functions(model), tokens.to(dtype), tmp_path / "function.onnx"
    )
    assert "MultiHeadAttention" in kernels and "Attention" not in kernels
    assert "Attention" in operators and "MultiHeadAttention" not in operators
    for output in (by_kernel, by_function):
        np.testing.assert_allclose(output, expected, rtol=0, atol=TOLERANCES[dtype])


def test_nothing_is_transposed_around_the_node():
    model = exported(OfPictures(2, 9), torch.randn(2, 9, 2 * HEAD_WIDTH))
    assert [node.domain for node in model.graph.node if node.op_type == "MultiHeadAttention"] == [ATTENTION_DOMAIN]
    # The weights' own are constants.
    assert not [n for n in model.graph.node if n.op_type == "Transpose" and not n.input[0].endswith("weight")]


@pytest.mark.parametrize("option", [{"is_causal": True}, {"scale": 1.0}])
def test_an_option_that_the_node_does_not_have_is_refused(option):
    class WithOption(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x, **option)

    with pytest.raises(torch.onnx.OnnxExporterError):
        exported(WithOption(), torch.randn(2, 2, 9, HEAD_WIDTH))
