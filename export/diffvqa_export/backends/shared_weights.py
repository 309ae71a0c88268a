"""ONNX files that read their weights from the safetensors file which the network was loaded from: stored once for both.

That file holds half precision, and the graphs cast it to float32; ONNX Runtime folds the casts when it opens them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.models.weights import read_safetensors

# What is smaller stays in the graph, where it takes less room than a reference.
_LEAST_BYTES = 512


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor's place in the file, and its transposition from there to the graph."""

    offset: int
    size: int
    shape: tuple[int, ...]
    is_transposed: bool


def share_weights(model: Path, weights: Path, out: Path) -> None:
    """Writes a model's graph to `out`, whose weights are read from a copy of `weights` beside it.

    A tensor is found by its values, as they are or transposed, whatever its name. What the exporter has computed from
    weights stays in the graph.

    Args:
        model: an ONNX file in float32.
        weights: a safetensors file of float16.

    Raises:
        EngineBuildError: most of the model's weights are not in that file.
    """
    stored = _tensors_by_value(weights)
    graph = onnx.load(model)
    kept, casts, kept_bytes, shared_bytes = [], [], 0, 0
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        is_large = tensor.data_type == TensorProto.FLOAT and values.nbytes >= _LEAST_BYTES
        place = stored.get(_key(values)) if is_large else None
        if place is None:
            kept.append(tensor)
            kept_bytes += values.nbytes
            continue
        half = _reference(f"{tensor.name}.half", place, values.shape, weights.name)
        kept.append(half)
        casts += _float32_of(half.name, tensor.name, place)
        shared_bytes += values.nbytes
    if shared_bytes <= kept_bytes:
        raise EngineBuildError(
            f"{weights} has {shared_bytes:,} of the {shared_bytes + kept_bytes:,} bytes of weights of {model.name} in "
            "float16; leave out --share-weights"
        )
    nodes = [*casts, *graph.graph.node]
    del graph.graph.initializer[:], graph.graph.node[:]
    graph.graph.initializer.extend(kept)
    graph.graph.node.extend(nodes)
    out.write_bytes(graph.SerializeToString())


def _tensors_by_value(weights: Path) -> dict[str, _Stored]:
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    found: dict[str, _Stored] = {}
    for name, tensor in read_safetensors(weights).items():
        if header[name]["dtype"] != "F16":
            continue
        first, last = (8 + length + at for at in header[name]["data_offsets"])
        values = tensor.float().numpy()
        found.setdefault(_key(values), _Stored(first, last - first, values.shape, is_transposed=False))
        if values.ndim == 2:
            found.setdefault(_key(values.T), _Stored(first, last - first, values.shape, is_transposed=True))
    return found


def _key(values: NDArray[np.float32]) -> str:
    """A hash of the values in their order, whatever the shape."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _reference(name: str, place: _Stored, shape: Sequence[int], file: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, data_location=TensorProto.EXTERNAL)
    tensor.dims.extend(place.shape if place.is_transposed else shape)
    for key, value in {"location": file, "offset": place.offset, "length": place.size}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _float32_of(half: str, name: str, place: _Stored) -> list[onnx.NodeProto]:
    if not place.is_transposed:
        return [helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT)]
    as_stored = f"{name}.stored"
    return [
        helper.make_node("Cast", [half], [as_stored], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [as_stored], [name], perm=[1, 0]),
    ]
