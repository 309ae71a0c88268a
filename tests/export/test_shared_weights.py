"""ONNX engines that read their weights from the safetensors file: the same bits, and stored once."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffvqa_export.backends.shared_weights import share_weights
from diffvqa_export.context import BuildRequest
from diffvqa_export.weights import choose_weights, random_weights
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from diffvqa_rt.engines.verification import external_data_files
from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.metrics.diffvqa.presets import TINY

GENERATOR = torch.Generator().manual_seed(0)
LINEAR, KERNEL, COMPUTED = (
    torch.randn(shape, generator=GENERATOR).half() for shape in ((40, 30), (8, 40, 3, 3), (40, 30))
)


@pytest.fixture
def model(tmp_path) -> Path:
    """The sum of x by LINEAR, as the exporter has it, transposed, and by what was computed; then KERNEL's mean."""
    constants = {
        "linear": LINEAR.float().T.contiguous(),
        "computed": COMPUTED.float().T.exp().contiguous(),
        "kernel": KERNEL.float().flatten(1),
        "few": torch.ones(4),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "linear"], ["a"]),
        helper.make_node("MatMul", ["x", "computed"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
        helper.make_node("ReduceMean", ["kernel"], ["z"], keepdims=0),
        helper.make_node("ReduceMean", ["few"], ["w"], keepdims=0),
    ]
    shapes = {"y": [None, 40], "z": [], "w": []}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 30])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(value.numpy(), name) for name, value in constants.items()],
    )
    path = tmp_path / "plain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def outputs_of(path: Path) -> list[np.ndarray]:
    x = np.random.default_rng(0).standard_normal((5, 30)).astype(np.float32)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def test_a_graph_reads_what_the_file_has_and_keeps_what_was_computed(model, tmp_path):
    weights, out = tmp_path / "net.safetensors", tmp_path / "shared.onnx"
    save_file({"mix.weight": LINEAR, "conv.weight": KERNEL, "table": COMPUTED}, weights)
    share_weights(model, weights, out)
    assert external_data_files(out.read_bytes()) == {"net.safetensors"}
    kept = {tensor.name: tensor for tensor in onnx.load(out, load_external_data=False).graph.initializer}
    assert set(kept) == {"linear.half", "kernel.half", "computed", "few"}
    assert kept["linear.half"].dims == [40, 30] and kept["kernel.half"].dims == [8, 360]
    onnx.checker.check_model(out, full_check=True)
    for shared, plain in zip(outputs_of(out), outputs_of(model), strict=True):
        assert np.array_equal(shared, plain)


def test_a_file_of_other_weights_is_refused(model, tmp_path):
    weights = tmp_path / "other.safetensors"
    save_file({"mix.weight": LINEAR.float(), "table": COMPUTED}, weights)
    with pytest.raises(EngineBuildError, match=r"other.safetensors has 0 of the .* plain.onnx in float16; leave out"):
        share_weights(model, weights, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_only_float32_onnx_engines_of_one_file_share_weights():
    request = BuildRequest(
        weights=choose_weights(TINY, None), backends=("onnx",), out=Path("x"), clip=Path("y"), share_weights=True
    )
    for change, sentence in [
        ({"precision": "fp16"}, "--share-weights applies to the onnx backend in fp32 alone; .* precision 'fp16'"),
        ({"backends": ("onnx", "torch")}, "--share-weights applies to the onnx backend in fp32 alone; backends is"),
        ({"weights": random_weights(TINY)}, "--share-weights needs weights in one safetensors file; they are random"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            dataclasses.replace(request, **change)
