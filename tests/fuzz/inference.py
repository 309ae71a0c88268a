"""Inference requests that the served models answer."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from clips import make_clip
from google.protobuf.message import DecodeError
from prompted_network import SMALL
from served import still
from tritonclient.grpc import service_pb2 as pb

from diffvqa_rt.metrics.aigc_vqa.metric import METRIC as PROMPTED
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.serving.models import served_models

TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
PROMPTS = ("a cat on a sofa", "\u732b", "word " * 40)
_SERVED = served_models(PROMPTED, SMALL, "embedded") | served_models(METRIC, TINY, "embedded")
MODELS = tuple(_SERVED)
ENSEMBLE = MODELS[-1]
OPTIONAL = frozenset().union(*(spec.optional for spec in _SERVED.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What requests are made from.

    Attributes:
        models: that get requests; every other request is for one that takes a video.
        inputs: each model's, as the server's metadata says.
        outputs: their names by model.
        videos: encoded, small.
    """

    models: tuple[str, ...]
    inputs: Mapping[str, tuple[pb.ModelMetadataResponse.TensorMetadata, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    videos: tuple[bytes, ...]

    @property
    def models_of_videos(self) -> list[str]:
        return [name for name in self.models if any(tensor.name == "video" for tensor in self.inputs[name])]


def read_corpus(stub: Any, models: tuple[str, ...] | None = None) -> Corpus:
    """The corpus for requests to a server's models, or to some of them, by its `ModelMetadata`."""
    metadata = {name: answer for name in MODELS if (answer := _metadata(stub, name)) is not None}
    return Corpus(
        models=models or tuple(metadata),
        inputs={name: tuple(answer.inputs) for name, answer in metadata.items()},
        outputs={name: tuple(output.name for output in answer.outputs) for name, answer in metadata.items()},
        videos=(
            make_clip(frames=6),
            make_clip("mpeg4", "avi", frames=4),
            make_clip("mpeg2video", "mpeg", frames=4),
            still(),
        ),
    )


def _metadata(stub: Any, model: str) -> Any:
    """What the server says of a model; None where it does not serve it."""
    try:
        return stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=20)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return None


def good_request(corpus: Corpus) -> pb.ModelInferRequest:
    """The request whose score must stay what it is."""
    request = pb.ModelInferRequest(model_name=ENSEMBLE)
    request.inputs.add(name="video", datatype="UINT8", shape=[len(corpus.videos[0])])
    request.raw_input_contents.append(corpus.videos[0])
    return request


def valid_request(corpus: Corpus, model: str, choose: random.Random) -> pb.ModelInferRequest:
    """A request that the model answers, one row of it; what is optional is there or not."""
    request = pb.ModelInferRequest(model_name=model)
    for tensor in corpus.inputs[model]:
        if tensor.name in OPTIONAL and choose.random() < 0.3:
            continue
        array = _values(corpus, tensor, choose)
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def _values(corpus: Corpus, tensor: Any, choose: random.Random) -> np.ndarray:
    generator, dtype = np.random.default_rng(choose.getrandbits(32)), TYPES[tensor.datatype]
    shape = [1 if size < 0 else size for size in tensor.shape]
    if tensor.name == "video":
        return np.frombuffer(choose.choice(corpus.videos), np.uint8)
    if tensor.name == "prompt":
        return np.frombuffer(choose.choice(PROMPTS).encode(), np.uint8)
    if tensor.datatype == "UINT8":
        return generator.integers(0, 256, shape, dtype)
    if tensor.datatype == "FP32":
        return generator.standard_normal(shape, dtype)
    # Numbers and marks of time.
    return np.ones(shape, dtype) if dtype in (np.int32, np.int64) else np.zeros(shape, dtype)


def wraps_around(message: bytes) -> bool:
    """Whether a request has a tensor whose size is that of its bytes modulo 2^64, and not in truth.

    Triton server 2.51 multiplies shapes without looking for an overflow, takes such a tensor, and its Python backend
    ends the model's process while it unpacks the request, before any code of the model: pybind11 throws where nobody
    catches ("array is too big").
    """
    try:
        request = pb.ModelInferRequest.FromString(message)
    except DecodeError:
        return False
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=False):
        size = math.prod(tensor.shape) * np.dtype(TYPES.get(tensor.datatype, np.uint8)).itemsize
        if size != len(raw) and (size - len(raw)) % 2**64 == 0:
            return True
    return False
