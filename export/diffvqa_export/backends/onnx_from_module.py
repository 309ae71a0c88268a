"""A stage's torch module to an ONNX file in standard operators."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx
import onnx_ir
import torch
from diffvqa_kernels.selective_scan.onnx import (
    DOMAIN,
    TENSORRT_PLUGINS,
    ScanRuntime,
    attach_functions,
    translation_table,
)
from onnxscript import opset23 as op

from diffvqa_export.backends.attention import ATTENTION_DOMAIN, attach_attention, translate_attention
from diffvqa_export.export_stage import ExportJob
from diffvqa_rt.engines.manifest import PROVENANCE_KEY
from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.specs import EngineSpec

# The first opset with Attention, which the self-attention's node is in standard terms.
OPSET = 23


def onnx_from_module(job: ExportJob) -> None:
    """Writes `job.path`, its weights beside it, with the spec's names of inputs, outputs and dynamic dimensions.

    The provenance goes into the file's metadata.

    Raises:
        EngineBuildError: the exporter failed, the graph does not keep the spec's border, or it has an operator that no
            stock runtime knows.
    """
    spec = job.spec
    dimensions = {
        name: torch.export.Dim(name, min=1, max=4096)
        for tensor in spec.inputs
        for name in tensor.shape
        if isinstance(name, str)
    }
    dynamic_shapes = tuple(
        {axis: dimensions[size] for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in spec.inputs
    )
    table: dict[Callable[..., Any], Callable[..., Any]] = {
        **translation_table(),
        torch.ops.aten.group_norm.default: _group_norm,
        torch.ops.aten.scaled_dot_product_attention.default: translate_attention,
    }
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                job.module,
                job.stage.example_inputs(job.config),
                dynamo=True,
                opset_version=OPSET,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=dynamic_shapes,
                custom_translation_table=table,
                verbose=False,
            )
        assert program is not None  # only the exporter's other modes give none
        attach_functions(program, runtime=job.runtime)
        attach_attention(program)
        _forget_sources(program.model)
        program.model.metadata_props[PROVENANCE_KEY] = job.provenance
        # Weights beside the graph, whatever their size: a protobuf ends at 2 GiB, and one way is better than two.
        program.save(job.path, external_data=True)
        data = job.path.with_name(f"{job.path.name}.data")
        if not data.stat().st_size:  # weights of a few bytes are in the graph all the same
            data.unlink()
        onnx.checker.check_model(job.path)
        model = onnx.load(job.path, load_external_data=False)
    except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError) as error:
        raise EngineBuildError(f"{spec.name} could not be exported to ONNX: {error}") from error
    _check(model, spec, job.runtime)


def _forget_sources(model: onnx_ir.Model) -> None:
    """Takes out the exporter's notes on every node, with this machine's paths: four fifths of a graph's bytes."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def _group_norm(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Any:
    # ONNX Runtime has no CPU kernel for GroupNormalization and runs its function body, ten nodes with two casts, where
    # InstanceNormalization over the groups is one kernel: measured 8 % of a denoising step.
    is_half = x.dtype != onnx_ir.DataType.FLOAT
    x_32, weight_32, bias_32 = (op.Cast(t, to=onnx_ir.DataType.FLOAT) if is_half else t for t in (x, weight, bias))
    groups = op.Reshape(x_32, op.Constant(value_ints=[0, num_groups, -1]))
    ones, zeros = op.Constant(value_floats=[1.0] * num_groups), op.Constant(value_floats=[0.0] * num_groups)
    normalised = op.Reshape(op.InstanceNormalization(groups, ones, zeros, epsilon=eps), op.Shape(x))
    per_channel = op.Constant(value_ints=[-1, 1, 1])
    out = op.Add(op.Mul(normalised, op.Reshape(weight_32, per_channel)), op.Reshape(bias_32, per_channel))
    return op.Cast(out, to=x.dtype) if is_half else out


def _check(model: onnx.ModelProto, spec: EngineSpec, runtime: ScanRuntime) -> None:
    for kind, values, tensors in (
        ("inputs", model.graph.input, spec.inputs),
        ("outputs", model.graph.output, spec.outputs),
    ):
        found = [(v.name, *(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values]
        expected = [(tensor.name, *tensor.shape) for tensor in tensors]
        if found != expected:
            raise EngineBuildError(f"{spec.name}: the exported {kind} are {found}; the spec says {expected}")
    functions = {(function.domain, function.name) for function in model.functions}
    if runtime == "tensorrt":
        functions |= {(DOMAIN, plugin) for plugin in TENSORRT_PLUGINS}
    foreign = {
        f"{node.domain}::{node.op_type}"
        for node in (*_nodes(model.graph.node), *(node for f in model.functions for node in _nodes(f.node)))
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in functions
    }
    if foreign or any(function.domain not in (DOMAIN, ATTENTION_DOMAIN) for function in model.functions):
        raise EngineBuildError(f"{spec.name}: {', '.join(foreign)} is not a standard ONNX operator")


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g.node)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps the exporter's own notes (missing torchvision, constants not folded) off the build's output."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
