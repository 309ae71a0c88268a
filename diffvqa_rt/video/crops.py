"""Pieces of a frame at native resolution: how many, where a seed places them, and what they show."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.checks import whole
from diffvqa_rt.errors import InputError, ScoreWarning

RgbFrame = NDArray[np.uint8]

Region = tuple[float, float, float, float]
"""A part of a frame: left, top, right, bottom in the frame's pixels."""

MAX_SEED = 2**63 - 1
"""Any seed fits an int64, which is what crosses a gRPC border."""

MAX_CROPS = 2**16
"""The most crop positions of a video; the command line, the server and this module refuse more."""


def check_seed(seed: int) -> int:
    """Returns a request's seed as a plain integer. Raises InputError where it is out of range."""
    return whole("seed", seed, 0, MAX_SEED, error=InputError)


def check_crops(crops: int) -> int:
    """Returns a request's number of crops as a plain integer. Raises InputError where it is out of range."""
    return whole("crops", crops, 1, MAX_CROPS, error=InputError)


def check_frames(frames: Sequence[RgbFrame]) -> None:
    """Raises TypeError or ValueError where there is no frame, or one is not [H, W, 3] uint8."""
    if not len(frames):
        raise ValueError("frames is empty; expected at least one [H, W, 3] array")
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8:
            raise TypeError(f"frames[{index}] is an array of {frame.dtype}; expected uint8, RGB from 0 to 255")
        if frame.ndim != 3 or frame.shape[-1] != 3 or 0 in frame.shape:
            raise ValueError(f"frames[{index}] is of shape {frame.shape}; expected [H, W, 3], not empty")


def scaling_warnings(width: int, height: int, size: int) -> tuple[ScoreWarning, ...]:
    """A warning where pictures of this size are smaller than a view, which then shows what they do not have."""
    if min(width, height) >= size:
        return ()
    sentence = f"its pictures of {width}×{height} pixels are scaled up for views of {size}×{size}"
    return (ScoreWarning("views-scaled-up", sentence),)


def crop_places(seed: int, crops: int) -> NDArray[np.float64]:
    """The place of each crop in the room that it has, [crops, 2] float64 as fractions (x, y) in [0, 1).

    From the raw 64-bit outputs of the counter-based Philox generator: NumPy guarantees that stream, and not that of its
    own `uniform`. Shifted by a half, or the default seed 0 would look at the left edge, where the black bars are; so it
    looks at (0.51, 0.74).
    """
    raw = np.random.Philox(key=int(seed)).random_raw(2 * crops)
    uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((uniform + 0.5) % 1).reshape(crops, 2)


def crop_regions(width: int, height: int, size: int, places: NDArray[np.float64]) -> tuple[Region, ...]:
    """The part of a frame that each crop shows, by their places [crops, 2]."""
    return tuple(crop_region(width, height, size, place) for place in places)


def crop_region(width: int, height: int, size: int, place: NDArray[np.float64]) -> Region:
    """The part of a frame that a crop shows.

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
