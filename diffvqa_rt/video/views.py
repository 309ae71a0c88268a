"""The two views of each frame that the network sees: all of it, small; and a piece of it, untouched (SPEC §1)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.checks import whole
from diffvqa_rt.errors import ScoreWarning

RgbFrame = NDArray[np.uint8]

ViewCutter = Literal["pillow", "dali"]
"""Whose resampling makes the views: this module's, or `dali`'s, where DALI's decoders make those of other videos."""

MAX_SEED = 2**63 - 1
"""Any seed fits an int64, which is what crosses a gRPC border."""

MAX_CROPS = 2**16
"""The most crop positions of a video; the command line, the server and this module refuse more."""


def make_views(frames: Sequence[RgbFrame], size: int, seed: int = 0, crops: int = 1) -> NDArray[np.float32]:
    """The views of a video's frames as the network takes them, float32 in [-1, 1]: `cut_views`, normalised."""
    return normalize_views(cut_views(frames, size, seed, crops))


def scaling_warnings(width: int, height: int, size: int) -> tuple[ScoreWarning, ...]:
    """A warning where pictures of this size are smaller than a view, which then shows what they do not have."""
    if min(width, height) >= size:
        return ()
    sentence = f"its pictures of {width}×{height} pixels are scaled up for views of {size}×{size}"
    return (ScoreWarning("views-scaled-up", sentence),)


def normalize_views(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """From 0 … 255 to [-1, 1] float32, of the same shape."""
    views = pixels.astype(np.float32)
    views /= 127.5
    views -= 1
    return views


def cut_views(frames: Sequence[RgbFrame], size: int, seed: int = 0, crops: int = 1) -> NDArray[np.uint8]:
    """The views of a video's frames in pixels, [crops, 2N, 3, size, size] uint8.

    Frame i's semantic view (the whole frame, resized, aspect not kept) is at 2i of the second axis, its distortion
    view (a square at native resolution) at 2i + 1. A frame with a side under `size` is first scaled up until its
    short side is `size`. All frames share the crop's place, a pair of fractions that `seed` alone decides, so frames
    may differ in size; crop 0 is the same whatever `crops` is.

    Args:
        frames: N arrays [H, W, 3] uint8 RGB.

    Raises:
        TypeError, ValueError: a frame is of the wrong dtype or shape, or a number is out of range.
    """
    size, seed, crops = check_arguments(frames, size, seed, crops)
    places = crop_places(seed, crops)
    pixels = np.empty((crops, 2 * len(frames), size, size, 3), np.uint8)
    for index, frame in enumerate(frames):
        both = slice(2 * index, 2 * index + 2)
        if index and frame is frames[index - 1]:
            pixels[:, both] = pixels[:, 2 * index - 2 : 2 * index]
            continue
        image = Image.fromarray(frame)
        pixels[:, 2 * index] = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
        for crop, place in enumerate(places):
            pixels[crop, 2 * index + 1] = np.asarray(_crop(image, size, place))
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 2))


def check_arguments(frames: Sequence[RgbFrame], size: int, seed: int, crops: int) -> tuple[int, int, int]:
    """The three numbers as plain integers; all that make views refuse the same arguments in the same words.

    Raises:
        TypeError, ValueError: as `cut_views` says.
    """
    numbers = check_numbers(size, seed, crops)
    if not len(frames):
        raise ValueError("frames is empty; expected at least one [H, W, 3] array")
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8:
            raise TypeError(f"frames[{index}] is an array of {frame.dtype}; expected uint8, RGB from 0 to 255")
        if frame.ndim != 3 or frame.shape[-1] != 3 or 0 in frame.shape:
            raise ValueError(f"frames[{index}] is of shape {frame.shape}; expected [H, W, 3], not empty")
    return numbers


def check_numbers(size: int, seed: int, crops: int) -> tuple[int, int, int]:
    """The three as plain integers. Raises ValueError where one is out of range."""
    return whole("size", size, 1, 2**16), check_seed(seed), check_crops(crops)


def check_seed(seed: int) -> int:
    """The seed as a plain integer. Raises ValueError where it is out of range."""
    return whole("seed", seed, 0, MAX_SEED)


def check_crops(crops: int) -> int:
    """The number of crops as a plain integer. Raises ValueError where it is out of range."""
    return whole("crops", crops, 1, MAX_CROPS)


def crop_places(seed: int, crops: int) -> NDArray[np.float64]:
    """Where each crop lies in the room that it has, [crops, 2] float64 as fractions (x, y) in [0, 1).

    From the raw 64-bit outputs of the counter-based Philox generator: NumPy guarantees that stream, and not that of its
    own `uniform`. Shifted by a half, or the default seed 0 would look at the left edge, where the black bars are; so it
    looks at (0.51, 0.74).
    """
    raw = np.random.Philox(key=int(seed)).random_raw(2 * crops)
    uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((uniform + 0.5) % 1).reshape(crops, 2)


def crop_region(width: int, height: int, size: int, place: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """What a crop shows of a frame: left, top, right, bottom in the frame's pixels.

    Whole numbers, `size` apart, where no side is under `size`; else a smaller region, which is to be scaled up. Only
    that: a sliver of a picture scaled whole could fill the memory.
    """
    short = min(width, height)
    scaled = [side if short >= size else round(side * size / short) for side in (width, height)]
    left, top = (int(fraction * (side - size + 1)) for fraction, side in zip(place, scaled, strict=True))
    if short >= size:
        return left, top, left + size, top + size
    across, down = (side / target for side, target in zip((width, height), scaled, strict=True))
    return left * across, top * down, (left + size) * across, (top + size) * down


def _crop(image: Image.Image, size: int, place: NDArray[np.float64]) -> Image.Image:
    region = crop_region(*image.size, size, place)
    if min(image.size) >= size:
        return image.crop(region)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=region)
