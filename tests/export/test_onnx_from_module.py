"""A stage as an ONNX graph: standard operators, the borders of the spec, float32 where half precision overflows."""

from pathlib import Path

import onnx
import pytest
import torch
from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.precision import write_precision
from diffvqa_export.weights import choose_weights
from export_jobs import job_of

from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.models.diffvqa.stages import stage_modules

STANDARD_DOMAINS = {"", "ai.onnx"}


def nodes_of(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


@pytest.mark.parametrize("name", engine_specs(TINY))
def test_a_graph_has_standard_operators_only(built_engines, name):
    model = onnx.load(built_engines / "onnx" / f"{name}.onnx", load_external_data=False)
    local = {(function.domain, function.name) for function in model.functions}
    called = {(node.domain, node.op_type) for graph in (model.graph, *model.functions) for node in nodes_of(graph)}
    assert {domain for domain, operator in called - local} <= STANDARD_DOMAINS
    # The scan is where a stand-in would hide: the head calls ours, and its body is a standard Scan.
    assert (("diffvqa", "BidirectionalSelectiveScan") in called) == (name == "head")
    assert (("", "Scan") in called) == (name == "head")
    assert (("com.microsoft", "MultiHeadAttention") in called) == (("", "Attention") in called) == (name != "head")


def test_timesteps_noise_and_text_are_inside_the_step(built_engines):
    """The exact folds: no sine, no text projection, no time embedding is left to compute."""
    model = onnx.load(built_engines / "onnx" / "unet_controller.onnx")
    assert [i.name for i in model.graph.input] == ["z", "z0", "step"]
    assert not {"Sin", "Cos"} & {node.op_type for node in model.graph.node}
    stored = {onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}
    extractor = choose_weights(TINY, None).load().extractor
    matrices = {name: p for name, p in extractor.named_parameters() if p.ndim == 2 and not name.startswith("vae")}
    kept = {n for n, p in matrices.items() if {m.detach().numpy().tobytes() for m in (p, p.T)} & stored}
    folded = {n for n in matrices if ".time_emb" in n or ".attn2." in n}
    assert not folded & kept
    assert {n for n in matrices if ".proj_in." in n or ".attn1." in n} <= kept  # what is not folded is found this way


def test_a_border_that_is_not_the_specs_is_refused(tmp_path):
    class FixedFrames(torch.nn.Module):
        def forward(self, frames):
            return (frames.mean((2, 3, 4)),)

    job = job_of("vae_encoder", FixedFrames().eval(), tmp_path / "vae_encoder.onnx")
    with pytest.raises(EngineBuildError, match="exported outputs are .*; the spec says"):
        onnx_from_module(job)


def test_a_module_in_training_mode_is_refused(tmp_path):
    module = stage_modules(random_network(TINY))["head"]
    module.head.semantic.mlp.train()
    with pytest.raises(EngineBuildError, match=r"^head: head.semantic.mlp is in training mode; call eval\(\) before"):
        job_of("head", module, tmp_path / "head.onnx")


def test_what_the_exporter_cannot_do_is_a_sentence(tmp_path):
    class Unexportable(torch.nn.Module):
        def forward(self, frames):
            return (frames if frames.sum() > 0 else -frames,)  # which way depends on the data

    job = job_of("vae_encoder", Unexportable().eval(), tmp_path / "vae_encoder.onnx")
    with pytest.raises(EngineBuildError, match="vae_encoder could not be exported to ONNX"):
        onnx_from_module(job)


def half_precision_graph(name: str, folder: Path) -> onnx.ModelProto:
    module = stage_modules(random_network(TINY))[name]
    write_precision(STAGES[name], module, "fp16")
    onnx_from_module(job_of(name, module, folder / f"{name}.onnx"))
    model = onnx.load(folder / f"{name}.onnx", load_external_data=False)
    return onnx.shape_inference.infer_shapes(model)


def test_half_precision_keeps_what_overflows_in_float32(tmp_path):
    """The exceptions, operator by operator, in the graph that a runtime gets."""
    model = half_precision_graph("unet_controller", tmp_path)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    inputs_of = {}
    for node in model.graph.node:
        inputs_of.setdefault(node.op_type, []).append(types[node.input[0]])
    assert set(inputs_of["InstanceNormalization"]) == {FLOAT}  # GroupNorm's statistics
    assert set(inputs_of["Softmax"]) == {FLOAT}
    assert set(inputs_of["Clip"]) == {FLOAT}  # the sampler
    assert set(inputs_of["MultiHeadAttention"]) == {FLOAT16}
    assert set(inputs_of["Gemm"]) == {FLOAT16}
    # The UNet's and the Controller's conv_in, and conv_out.
    assert sorted(inputs_of["Conv"]).count(FLOAT) == 3 < inputs_of["Conv"].count(FLOAT16)
    stash_types = {
        attribute.i
        for node in model.graph.node
        if node.op_type == "LayerNormalization"
        for attribute in node.attribute
        if attribute.name == "stash_type"
    }
    assert stash_types <= {FLOAT}  # 1, the default
    assert all(value.type.tensor_type.elem_type in (FLOAT, onnx.TensorProto.INT64) for value in model.graph.input)
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {FLOAT}
