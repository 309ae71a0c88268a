"""Colour against plain arithmetic, and frames turned upright."""

import numpy as np
import pytest
from clips import make_clip
from numpy.typing import NDArray

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video import sample_frames

# swscale's fixed-point arithmetic against float64, in grey levels: it rounds each term, and once more from 10 bits.
COLOR_TOLERANCE = 1


# ISO/IEC 23091-2 code and name of each matrix, with its weights of red and blue.
MATRICES = [
    (1, "bt709", 0.2126, 0.0722),
    (4, "fcc", 0.30, 0.11),
    (5, "bt470bg", 0.299, 0.114),
    (6, "smpte170m", 0.299, 0.114),
    (7, "smpte240m", 0.212, 0.087),
    (9, "bt2020nc", 0.2627, 0.0593),
]


def rgb_from_yuv(planes: list[NDArray], red: float, blue: float, is_full: bool, bits: int) -> NDArray:
    """RGB of full-resolution planes in float64, by ITU-T H.273 eq. 4-6: the plain arithmetic."""
    y, u, v = (plane.astype(np.float64) / 2 ** (bits - 8) for plane in planes)
    if is_full:
        scale = (2**bits - 1) / 2 ** (bits - 8)
        y, u, v = y / scale, (u - 128) / scale, (v - 128) / scale
    else:
        y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1) * 255, 0, 255)


def yuv_planes(bits: int, is_full: bool, width: int = 64, height: int = 48) -> list[NDArray]:
    """A gradient of luma over blocks of solid, legal chroma."""
    dtype, scale = (np.uint8, 1) if bits == 8 else (np.uint16, 2 ** (bits - 8))
    low, high = (0, 255) if is_full else (16, 235)
    y = np.tile(np.linspace(low, high, width), (height, 1))
    u, v = (np.random.default_rng(seed).integers(16, 240, (height // 16, width // 16)) for seed in (1, 2))
    chroma = [np.kron(plane, np.ones((16, 16))) for plane in (u, v)]
    return [(plane * scale).round().astype(dtype) for plane in (y, *chroma)]


@pytest.mark.parametrize("is_full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize(("code", "name", "red", "blue"), MATRICES)
@pytest.mark.parametrize(("pixel_format", "bits"), [("yuv444p", 8), ("yuv420p", 8), ("yuv420p10le", 10)])
def test_declared_matrix_and_range_are_used(
    pixel_format: str, bits: int, code: int, name: str, red: float, blue: float, is_full: bool
) -> None:
    y, u, v = yuv_planes(bits, is_full)
    stored = [y, u, v] if "444" in pixel_format else [y, u[::2, ::2], v[::2, ::2]]
    color = {"colorspace": code, "color_range": 2 if is_full else 1}
    clip = make_clip("ffv1", "matroska", pixel_format=pixel_format, planes=stored, frames=1, color=color)
    sampled = sample_frames(clip, 1)
    info = sampled.info
    assert (info.color_matrix, info.is_color_matrix_declared) == (name, True)
    assert info.color_range == ("full" if is_full else "limited")
    error = np.abs(sampled.frames[0] - rgb_from_yuv([y, u, v], red, blue, is_full, bits))
    # Where colours meet, subsampled chroma is interpolated: look at the middle of each block.
    inner = error.reshape(3, 16, 4, 16, 3)[:, 4:12, :, 4:12]
    assert inner.max() <= COLOR_TOLERANCE + 0.5


@pytest.mark.parametrize(
    ("size", "name", "red", "blue"),
    [
        ((64, 48), "smpte170m", 0.299, 0.114),
        ((1024, 576), "smpte170m", 0.299, 0.114),
        ((1280, 16), "bt709", 0.2126, 0.0722),
        ((16, 592), "bt709", 0.2126, 0.0722),
    ],
)
def test_undeclared_colour_follows_the_players_convention(size: tuple, name: str, red: float, blue: float) -> None:
    width, height = size
    planes = [np.full((height, width), value, np.uint8) for value in (120, 90, 170)]
    clip = make_clip("ffv1", "matroska", pixel_format="yuv444p", size=size, planes=planes, frames=1)
    sampled = sample_frames(clip, 1)
    info = sampled.info
    assert (info.color_matrix, info.is_color_matrix_declared, info.color_range) == (name, False, "limited")
    expected = rgb_from_yuv(planes, red, blue, is_full=False, bits=8)
    assert np.abs(sampled.frames[0] - expected).max() <= COLOR_TOLERANCE + 0.5


@pytest.mark.parametrize(("code", "red", "blue"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114)])
def test_colour_in_the_bitstream_counts(code: int, red: float, blue: float) -> None:
    planes = [np.full((48, 64), value, np.uint8) for value in (120, 90, 170)]
    color = {"colorspace": code, "color_range": 2}
    clip = make_clip(container="h264", pixel_format="yuv444p", planes=planes, color=color, frames=2)
    expected = rgb_from_yuv(planes, red, blue, is_full=True, bits=8)
    assert np.abs(sample_frames(clip, 1).frames[0] - expected).max() <= COLOR_TOLERANCE + 1.5


def test_grey_video_of_limited_range_is_stretched() -> None:
    planes = [np.tile(np.linspace(16, 235, 64).astype(np.uint8), (48, 1))]
    for code, expected in ((1, (planes[0] - 16.0) * 255 / 219), (2, planes[0])):
        color = {"color_range": code}
        clip = make_clip("ffv1", "matroska", pixel_format="gray", planes=planes, color=color, frames=1)
        sampled = sample_frames(clip, 1)
        assert sampled.info.color_matrix == "gray"
        assert np.abs(sampled.frames[0] - np.asarray(expected)[..., None]).max() <= 0.5


def test_a_matrix_that_is_not_converted_is_refused() -> None:
    clip = make_clip("ffv1", "matroska", pixel_format="yuv444p", color={"colorspace": 8}, frames=1)
    with pytest.raises(VideoDecodeError, match="<bytes> declares colour matrix 8 of ISO"):
        sample_frames(clip, 1)


@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_turned_upright(degrees: int, is_mirrored: bool) -> None:
    stored = sample_frames(make_clip(frames=2), 1).frames[0]
    sampled = sample_frames(make_clip(frames=2, orientation=(degrees, is_mirrored)), 1)
    upright = np.rot90(stored, degrees // 90)
    np.testing.assert_array_equal(sampled.frames[0], upright[:, ::-1] if is_mirrored else upright)
    info = sampled.info
    assert (info.height, info.width) == upright.shape[:2]
    # Counter-clockwise and mirrored after is mirrored and then clockwise.
    assert info.rotation_degrees == (degrees if is_mirrored else -degrees % 360)
    assert info.is_mirrored == is_mirrored
