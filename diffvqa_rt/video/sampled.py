"""Sampled frames, and what is known of the video that they are from."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import ScoreWarning

_HDR_TRANSFERS = ("smpte2084", "arib_std_b67")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """The decoder's findings. Sizes are in stored pixels, upright; size and colour are the first sampled frame's.

    `frame_rate_hz` is the average, None where a frame has no duration of its own (a still, an array, a folder).
    `rotation_degrees` is the clockwise turn that was applied, after mirroring left to right if `is_mirrored`.
    `decoder` is whose frames they are: `pyav`, `pillow` (pictures), `nvdec`, or nobody's (`array`).
    `decoded_frames` counts what the decoder gave on the way to the samples, some more where it has threads,
    `corrupt_frames` what did not decode or only with errors: frames of a video were passed over, a still was scored as
    the decoder gave it.
    `sample_aspect_ratio` is a pixel's width to its height, `8:9`, None where nothing is declared; pixels are never
    stretched. `field_order` is `progressive`, `top-first`, `bottom-first`, or `unknown` of interlaced frames;
    `is_deinterlaced` says whether their fields were made into whole frames.
    """

    width: int
    height: int
    frame_count: int
    duration_seconds: float
    frame_rate_hz: float | None
    decoder: str
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
    color_primaries: str
    sample_aspect_ratio: str | None
    field_order: str
    is_deinterlaced: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampledFrames:
    """The sampled frames, [H, W, 3] uint8 RGB each, upright, of several sizes if the video is; repeats share memory.

    `timestamps_seconds` are those of the frames used, from the start of the video. Arrays and folders of pictures count
    as one frame a second. `warnings` say what a reader of the score should know of the video or of its decoding.
    """

    frames: tuple[NDArray[np.uint8], ...]
    timestamps_seconds: tuple[float, ...]
    info: VideoInfo
    warnings: tuple[ScoreWarning, ...] = ()

    def without_repeats(self) -> "SampledFrames":
        """The single frame, where all are the same one, as of a still; else these."""
        if any(frame is not self.frames[0] for frame in self.frames):
            return self
        return dataclasses.replace(self, frames=self.frames[:1], timestamps_seconds=self.timestamps_seconds[:1])


def indices_at_centres(length: int, count: int) -> list[int]:
    """The indices at the centres of `count` equal spans of a sequence whose items last equally long."""
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def hdr_warnings(transfer: str) -> tuple[ScoreWarning, ...]:
    """A warning where a signal of this transfer function is HDR, which is scored as it is coded."""
    if transfer not in _HDR_TRANSFERS:
        return ()
    return (ScoreWarning("hdr-as-coded", f"its HDR signal ({transfer}) is scored as it is coded, unmapped"),)


def few_frames_warnings(times: Sequence[object], frame_count: int) -> tuple[ScoreWarning, ...]:
    """A warning where samples of these times are of fewer than half of the frames that they should be of."""
    distinct = len(set(times))
    if 2 * distinct >= min(len(times), frame_count):
        return ()
    return (ScoreWarning("few-frames", f"the score rests on {distinct} of its {frame_count:,} frames"),)
