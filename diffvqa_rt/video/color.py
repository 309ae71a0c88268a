"""A decoded frame as an upright 8-bit RGB picture, by the matrix, range and orientation that the video declares.

Where nothing is declared, the convention of players (mpv, and ffmpeg's for the range): BT.709 for pictures over 576 lines
or at least 1280 wide, BT.601 below; limited range, except for yuvj formats, grey and RGB. Not done: tone mapping of PQ
and HLG (`VideoInfo.color_transfer` reports them), blending of transparency (alpha is ignored), stretching of non-square
pixels.
"""

import math
from dataclasses import dataclass

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, ColorTrc, Interpolation
from numpy.typing import NDArray

from diffvqa_rt.errors import VideoDecodeError

# ISO/IEC 23091-2 code of a frame's matrix: its name, and swscale's code for it.
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
    """How a frame's samples are to be read."""

    matrix: str
    is_matrix_declared: bool
    range: str
    transfer: str
    swscale_matrix: int
    is_gray: bool


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored picture is shown: mirrored left to right first, if at all, then turned clockwise."""

    rotation_degrees: int
    is_mirrored: bool

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        mirrored = pixels[:, ::-1] if self.is_mirrored else pixels
        return np.ascontiguousarray(np.rot90(mirrored, -self.rotation_degrees // 90))


def color_of(frame: VideoFrame, name: str) -> FrameColor:
    """What the frame declares of its colour, completed by convention.

    Raises:
        VideoDecodeError: it declares a matrix that is not converted (YCgCo, ICtCp, ...).
    """
    components = len(frame.format.components)
    is_gray = components <= 2 and frame.format.name not in ("pal8",)
    is_rgb = frame.format.is_rgb or frame.format.name == "pal8"
    is_full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    is_limited = frame.color_range == ColorRange.MPEG and not is_full
    is_declared = frame.colorspace not in _UNDECLARED_MATRICES
    if is_rgb or is_gray:
        matrix, swscale_matrix = ("gray" if is_gray else "rgb"), 1
        is_declared = True
    elif not is_declared:
        is_large = frame.width >= 1280 or frame.height > 576
        matrix, swscale_matrix = _MATRICES[1 if is_large else 6]
    elif frame.colorspace in _MATRICES:
        matrix, swscale_matrix = _MATRICES[frame.colorspace]
    else:
        raise VideoDecodeError(
            f"{name} declares colour matrix {frame.colorspace} of ISO/IEC 23091-2, which is not converted; re-encode it as BT.709"
        )
    return FrameColor(
        matrix=matrix,
        is_matrix_declared=is_declared,
        range="full" if is_rgb or is_full or (is_gray and not is_limited) else "limited",
        transfer=_transfer_name(frame.color_trc),
        swscale_matrix=swscale_matrix,
        is_gray=is_gray,
    )


def _transfer_name(code: int) -> str:
    try:
        return ColorTrc(code).name.lower()
    except ValueError:
        return f"code {code}"


def orientation_of(frame: VideoFrame) -> Orientation:
    """The orientation of the frame's display matrix, to the nearest quarter turn."""
    try:
        matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)
    except KeyError:
        return Orientation(0, False)
    except ValueError:
        # PyAV 18 cannot list side data beside an EXIF block: of a still, only the turn is known, not the mirroring.
        return Orientation(round(-frame.rotation / 90) * 90 % 360, False)
    # x' = a x + c y, y' = b x + d y, with y downwards
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    is_mirrored = a * d - b * c < 0
    turn = math.atan2(-b, -a) if is_mirrored else math.atan2(b, a)
    return Orientation(round(turn / (math.pi / 2)) * 90 % 360, is_mirrored)


def rgb_from_frame(frame: VideoFrame, name: str) -> NDArray[np.uint8]:
    """The frame as it is meant to be seen, [H, W, 3] uint8 RGB, upright.

    Raises:
        VideoDecodeError: its colours or its pixel format cannot be converted.
    """
    color = color_of(frame, name)
    try:
        converted = frame.reformat(
            format="rgb24",
            src_colorspace=color.swscale_matrix,
            src_color_range=ColorRange.JPEG if color.range == "full" else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=_SWSCALE_FLAGS,
            threads=1,
        )
    except av.FFmpegError as error:
        raise VideoDecodeError(
            f"{name} has pixel format {frame.format.name}, which does not convert to RGB (ffmpeg: {error.strerror}); "
            "re-encode it as yuv420p"
        ) from error
    pixels = np.asarray(converted.to_ndarray(), dtype=np.uint8)
    if color.is_gray and color.range == "limited":
        # swscale takes every grey format for full range.
        pixels = _LIMITED_TO_FULL[pixels]
    return orientation_of(frame).upright(pixels)
