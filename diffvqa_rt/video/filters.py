"""What libavfilter does to single frames: whole frames from fields, and the place of chroma samples."""

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray


def deinterlaced(before: VideoFrame | None, frame: VideoFrame, after: VideoFrame | None) -> VideoFrame | None:
    """`frame` made whole from its first field in time and its neighbours, by bwdif, as ffmpeg does in a whole video.

    None of a frame that is too small for it.
    """
    # Others in size or format are of another scene.
    neighbours = [other if other is not None and _shape(other) == _shape(frame) else None for other in (before, after)]
    frames = [other for other in (neighbours[0], frame, neighbours[1]) if other is not None]
    # One frame each: the filter reads the one before, the one after, and nothing else.
    try:
        whole = _filtered(frames, ("bwdif", "mode=send_frame:parity=auto:deint=all"))
    except av.FFmpegError:  # it refuses planes of a few pixels
        return None
    return whole[neighbours[0] is not None]


def field_order(frame: VideoFrame) -> str:
    """The order in time of a frame's fields: `top-first`, `bottom-first`, or `unknown` if they are alike."""
    if frame.height == 1:
        return "unknown"
    even = (
        _filtered([frame], ("crop", f"{frame.width}:{frame.height - 1}:0:0:exact=1"))[0] if frame.height % 2 else frame
    )
    first, _ = _filtered([even], ("separatefields", ""))
    rows, earliest = _rows(frame), _rows(first)
    is_top, is_bottom = (np.array_equal(earliest, rows[start::2][: len(earliest)]) for start in (0, 1))
    if is_top == is_bottom:
        return "unknown"
    return "top-first" if is_top else "bottom-first"


def _rows(frame: VideoFrame) -> NDArray[np.uint8]:
    """The bytes of the first plane, a row a line, without what pads them."""
    plane = frame.planes[0]
    row_bytes = frame.width * ((frame.format.components[0].bits + 7) // 8)
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, :row_bytes]


def with_left_chroma(frame: VideoFrame) -> VideoFrame:
    """The frame, marked as having its chroma samples beside the left one of the luma samples that they are for."""
    return _filtered([frame], ("setparams", "chroma_location=left"))[0]


def _shape(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _filtered(frames: Sequence[VideoFrame], step: tuple[str, str]) -> list[VideoFrame]:
    graph = Graph()
    first = frames[0]
    source = graph.add_buffer(
        width=first.width, height=first.height, format=first.format, time_base=first.time_base or Fraction(1)
    )
    sink = graph.add("buffersink")
    middle = graph.add(*step)
    source.link_to(middle)
    middle.link_to(sink)
    graph.configure()
    results: list[VideoFrame] = []
    for frame in [*frames, None]:
        source.push(frame)
        while True:
            try:
                results.append(cast(VideoFrame, sink.pull()))
            except (av.BlockingIOError, av.EOFError):
                break
    return results
