"""A request to the ensemble: the video and the options of a score, checked before anything is sent."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.metric import Request
from diffvqa_rt.sources import VideoSource, source_name
from diffvqa_rt.video.container import open_source
from diffvqa_rt.video.sequence import is_folder

MAX_MESSAGE_BYTES = 2**31 - 1
_ROOM_FOR_THE_REST_BYTES = 1 << 16


def encoded_video(source: VideoSource) -> NDArray[np.uint8]:
    """The bytes of a video. Raises VideoDecodeError where they cannot be had, TypeError where a source is no video."""
    if isinstance(source, np.ndarray):
        raise TypeError("source is an array; over gRPC goes an encoded video, as a path or bytes")
    if not isinstance(source, str | bytes | os.PathLike):
        raise TypeError(f"source is a {type(source).__name__}; expected a path, or an encoded video's bytes")
    if is_folder(source):
        raise VideoDecodeError(
            f"{source_name(source)} is a folder; over gRPC goes one file: make an APNG or a video of the pictures, or "
            "score the folder in-process"
        )
    with open_source(source) as (name, file):
        video = np.frombuffer(file.read(), np.uint8)
    if len(video) > MAX_MESSAGE_BYTES - _ROOM_FOR_THE_REST_BYTES:
        raise VideoDecodeError(f"{name} is {len(video):,} bytes long, more than gRPC takes; score it in-process")
    return video


def request_tensors(grpc: Any, video: NDArray[np.uint8], request: Request) -> list[Any]:
    """The ensemble's inputs as tritonclient takes them."""
    tensors: list[tuple[str, NDArray, str]] = [
        ("video", video, "UINT8"),
        ("seed", np.array([request.seed], np.int64), "INT64"),
    ]
    for name in ("crops", "frames"):
        if (number := getattr(request, name)) is not None:
            tensors.append((name, np.array([number], np.int32), "INT32"))
    if request.prompt is not None:
        tensors.append(("prompt", np.frombuffer(request.prompt.encode(), np.uint8), "UINT8"))
    if request.keep_interlaced:  # which servers before it do not know
        tensors.append(("keep_interlaced", np.array([True]), "BOOL"))
    return [
        grpc.InferInput(tensor, array.shape, datatype).set_data_from_numpy(array) for tensor, array, datatype in tensors
    ]
