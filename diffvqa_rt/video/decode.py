"""A few frames of a video, spread evenly over its duration, without decoding what lies between."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video.color import color_of, orientation_of, rgb_from_frame
from diffvqa_rt.video.container import MAX_FRAME_PIXELS, VideoFile, open_source, open_video
from diffvqa_rt.video.timeline import NO_TIME, Timeline, read_timeline

# More threads cost memory, a frame each; a sound video decodes to the same bits with any number.
_THREADS = 4

# Decoding this many frames costs about as much as a seek, which empties the decoder's pipeline.
_FRAMES_WORTH_A_SEEK = 8

# How many keyframes to go back, in turn, when the right one leads to no decodable frame.
_STEPS_BACK = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What the decoder found. Sizes are in stored pixels, upright; colour is that of the first sampled frame.

    `frame_rate_hz` is the average, None where time means nothing (a still, an array). `rotation_degrees` is the clockwise
    turn that was applied, after mirroring left to right where `is_mirrored`. `decoded_frames` counts all that had to be
    decoded, `corrupt_frames` those of them that did not decode and were passed over.
    """

    width: int
    height: int
    frame_count: int
    duration_seconds: float
    frame_rate_hz: float | None
    codec: str
    pixel_format: str
    bit_depth: int
    rotation_degrees: int
    is_mirrored: bool
    color_matrix: str
    is_color_matrix_declared: bool
    color_range: str
    color_transfer: str
    decoded_frames: int
    corrupt_frames: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampledFrames:
    """The sampled frames, [H, W, 3] uint8 RGB each, upright; sizes differ if the video's does. Repeats share memory.

    `timestamps_seconds` are those of the frames used, from the start of the video; an array has one frame a second.
    """

    frames: tuple[NDArray[np.uint8], ...]
    timestamps_seconds: tuple[float, ...]
    info: VideoInfo


def sample_frames(source: str | os.PathLike[str] | bytes | NDArray[np.uint8], count: int) -> SampledFrames:
    """`count` frames of `source`: those on screen at the centres of `count` equal spans of its duration (SPEC §1).

    A frame that does not decode gives way to the last good one before it, or else to the nearest good one that was
    sampled. The same source gives the same frames on any number of cores.

    Args:
        source: a path, the bytes of a video or image file, or RGB frames, uint8 [T, H, W, 3] or [H, W, 3].
        count: how many frames, at least 1; a video of fewer repeats the nearest.

    Raises:
        VideoDecodeError: the source cannot be read, or nothing in it decodes.
        TypeError, ValueError: an argument is of the wrong kind, or an array of the wrong dtype or shape.
    """
    if count < 1:
        raise ValueError(f"count is {count!r}; expected at least 1 frame")
    if isinstance(source, np.ndarray):
        return _sample_array(source, count)
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise TypeError(f"source is a {type(source).__name__}; expected a path, the bytes of a video, or a uint8 array")
    with open_source(source) as (name, file):
        return _sample_video(name, file, count)


def _sample_array(array: NDArray[np.uint8], count: int) -> SampledFrames:
    if array.dtype != np.uint8:
        raise TypeError(f"source is an array of {array.dtype}; expected uint8, RGB from 0 to 255")
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"source is an array of shape {array.shape}; expected [T, H, W, 3] or [H, W, 3], none of them 0")
    clip = array if array.ndim == 4 else array[None]
    length, height, width, _ = clip.shape
    chosen = [(2 * i + 1) * length // (2 * count) for i in range(count)]
    info = VideoInfo(
        width=width,
        height=height,
        frame_count=length,
        duration_seconds=float(length),
        frame_rate_hz=None,
        codec="array",
        pixel_format="rgb24",
        bit_depth=8,
        rotation_degrees=0,
        is_mirrored=False,
        color_matrix="rgb",
        is_color_matrix_declared=True,
        color_range="full",
        color_transfer="unspecified",
        decoded_frames=0,
        corrupt_frames=0,
    )
    pictures = {index: clip[index] for index in chosen}
    return SampledFrames(
        frames=tuple(pictures[index] for index in chosen),
        timestamps_seconds=tuple(float(index) for index in chosen),
        info=info,
    )


def _sample_video(name: str, file: BinaryIO, count: int) -> SampledFrames:
    with open_video(name, file) as video:
        timeline = read_timeline(video)
    targets = timeline.span_centres(count)
    seeks, threads = timeline.has_clock, _THREADS
    while True:
        with open_video(name, file, threads) as video:
            sampler = _Sampler(video, timeline)
            try:
                sampler.sample(targets, seeks)
            except _SeekMissedError:
                seeks = False
                continue
            # How damage spreads can depend on the number of threads, and then only one is reproducible.
            if threads == 1 or not sampler.is_damaged(targets):
                return sampler.result()
            threads = 1


class _SeekMissedError(Exception):
    """The container cannot go to a keyframe that its own packets showed."""


@dataclass(frozen=True, slots=True)
class _Sample:
    time: int
    pixels: NDArray[np.uint8]


class _Sampler:
    """Walks a video once from front to back and keeps the frames on screen at given times."""

    def __init__(self, video: VideoFile, timeline: Timeline) -> None:
        self._timeline = timeline
        self._reader = _FrameReader(video, timeline)
        self._samples: list[_Sample | None] = []
        self._first: VideoFrame | None = None

    def sample(self, targets: list[int], seeks: bool) -> None:
        """Fills in one sample per target; targets ascend."""
        latest = None
        for target in targets:
            frame = self._frame_at(target, seeks)
        ...
