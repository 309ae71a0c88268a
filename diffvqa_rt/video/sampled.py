"""Sampled frames, and what is known of the video that they are from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import ScoreWarning


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What the decoder found. Sizes are in stored pixels, upright; size and colour are the first sampled frame's.

    `frame_rate_hz` is the average, None where a frame has no duration of its own (a still, an array).
    `rotation_degrees` is the clockwise turn that was applied, after mirroring left to right if `is_mirrored`.
    `decoder` is whose frames they are: `pyav`, `pillow` (pictures), `nvdec`, or nobody's (`array`).
    `decoded_frames` counts what the decoder gave on the way to the samples, `corrupt_frames` what did not decode or
    only with errors, and was passed over.
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

    `timestamps_seconds` are those of the frames used, from the start of the video. An array counts as one frame a
    second. `warnings` say what a reader of the score should know of the video or of its decoding.
    """

    frames: tuple[NDArray[np.uint8], ...]
    timestamps_seconds: tuple[float, ...]
    info: VideoInfo
    warnings: tuple[ScoreWarning, ...] = ()
