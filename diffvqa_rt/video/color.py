"""A decoded frame as an upright 8-bit RGB picture, by the matrix, range and orientation that the video declares.

Where nothing is declared, players' convention holds: mpv's for the matrix (BT.709 from 1280 pixels across or above
576 down, else BT.601), ffmpeg's for the range (limited, but full for yuvj formats, grey and RGB), and mpv's and
libplacebo's for the place of chroma (to the left in limited range, else the middle). Not done: tone mapping of PQ and
HLG (`VideoInfo.color_transfer` tells of them), blending (alpha is ignored), stretching of non-square pixels.
"""

from dataclasses import dataclass
from enum import IntEnum

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, Interpolation
from numpy.typing import NDArray

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video.filters import field_order, with_left_chroma
from diffvqa_rt.video.presentation import Orientation, Presentation

# ISO/IEC 23091-2 code of a frame's matrix: its name, and swscale's code for it.
_BT709, _BT601 = 1, 6
_MATRICES = {
    1: ("bt709", 1),
    4: ("fcc", 4),
    5: ("bt470bg", 5),
    6: ("smpte170m", 5),
    7: ("smpte240m", 7),
    9: ("bt2020nc", 9),
}
_UNDECLARED_MATRICES = (0, 2, 3)

# Exact arithmetic, the same on every CPU: no dithering, no shortcut tables, chroma at full resolution.
_SWSCALE_FLAGS = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
)

_LIMITED_TO_FULL = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameColor:
    """The reading of a frame's samples."""

    matrix: str
    is_matrix_declared: bool
    range: str
    transfer: str
    primaries: str
    swscale_matrix: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """`pixels`, [H, W, 3] uint8 RGB, upright, and what they were made from."""

    pixels: NDArray[np.uint8]
    color: FrameColor
    orientation: Orientation
    pixel_format: str
    bit_depth: int
    field_order: str
    is_deinterlaced: bool


def color_of(frame: VideoFrame, name: str) -> FrameColor:
    """The frame's declarations of its colour, completed by convention.

    Raises:
        VideoDecodeError: it declares a matrix that is not converted (YCgCo, ICtCp, ...).
    """
    pixel_format = frame.format
    if pixel_format.is_rgb or pixel_format.name == "pal8":
        matrix, swscale_matrix, is_declared, range_ = "rgb", 1, True, "full"
    elif len(pixel_format.components) <= 2:
        matrix, swscale_matrix, is_declared = "gray", 1, True
        range_ = "limited" if frame.color_range == ColorRange.MPEG else "full"
    else:
        is_declared = frame.colorspace not in _UNDECLARED_MATRICES
        is_large = frame.width >= 1280 or frame.height > 576
        code = frame.colorspace if is_declared else _BT709 if is_large else _BT601
        if code not in _MATRICES:
            raise VideoDecodeError(
                f"{name} declares colour matrix {code} of ISO/IEC 23091-2, which is not converted; "
                "re-encode it as BT.709"
            )
        matrix, swscale_matrix = _MATRICES[code]
        is_full = frame.color_range == ColorRange.JPEG or pixel_format.name.startswith("yuvj")
        range_ = "full" if is_full else "limited"
    return FrameColor(
        matrix=matrix,
        is_matrix_declared=is_declared,
        range=range_,
        transfer=code_name(ColorTrc, frame.color_trc),
        primaries=code_name(ColorPrimaries, frame.color_primaries),
        swscale_matrix=swscale_matrix,
    )


def code_name(codes: type[IntEnum], code: int) -> str:
    """The name of an ISO/IEC 23091-2 code, as ffmpeg spells it."""
    try:
        return codes(code).name.lower()
    except ValueError:
        return f"code {code}"


def picture_from_frame(
    frame: VideoFrame,
    name: str,
    presentation: Presentation,
    orientation: Orientation | None = None,
    whole: VideoFrame | None = None,
    threads: int = 1,
) -> Picture:
    """The frame as it is meant to be seen.

    Args:
        frame: as it was decoded.
        name: of the video, for messages.
        presentation: of its stream.
        orientation: the frame's; the stream's by default.
        whole: the same frame after deinterlacing, whose samples are used then.
        threads: that convert its colours; no bit depends on them.

    Raises:
        VideoDecodeError: its colours or its pixel format cannot be converted.
    """
    color = color_of(frame, name)
    orientation = orientation or presentation.orientation or Orientation(0, False)
    samples = frame if whole is None else whole
    if presentation.is_chroma_sited is False and color.range == "limited" and _is_subsampled(frame):
        samples = with_left_chroma(samples)
    try:
        converted = samples.reformat(
            format="rgb24",
            src_colorspace=color.swscale_matrix,
            src_color_range=ColorRange.JPEG if color.range == "full" else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=_SWSCALE_FLAGS,
            threads=threads,
        )
    except av.FFmpegError as error:
        raise VideoDecodeError(
            f"{name} has pixel format {frame.format.name}, which does not convert to RGB (ffmpeg: {error.strerror}); "
            "re-encode it as yuv420p"
        ) from error
    pixels = np.asarray(converted.to_ndarray(), dtype=np.uint8)
    if color.matrix == "gray" and color.range == "limited":
        # swscale takes every grey format for full range.
        pixels = _LIMITED_TO_FULL[pixels]
    crop = presentation.crop
    # A picture of another size than the container declares is none that its crop was meant for.
    if crop is not None and crop.is_for(frame.width, frame.height):
        pixels = pixels[crop.top : crop.height - crop.bottom, crop.left : crop.width - crop.right]
    return Picture(
        pixels=orientation.upright(pixels),
        color=color,
        orientation=orientation,
        pixel_format=frame.format.name,
        bit_depth=frame.format.components[0].bits,
        field_order=field_order(frame) if frame.interlaced_frame else "progressive",
        is_deinterlaced=whole is not None,
    )


def _is_subsampled(frame: VideoFrame) -> bool:
    components = frame.format.components
    return len(components) >= 3 and components[1].width < components[0].width
