"""The two views of each frame that the network sees: all of it, small; and a piece of it, untouched (SPEC §1)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.checks import whole
from diffvqa_rt.metrics.diffvqa.engines import PIXELS
from diffvqa_rt.video.crops import RgbFrame, check_crops, check_frames, check_seed, crop_places, crop_region


def make_views(frames: Sequence[RgbFrame], size: int, seed: int = 0, crops: int = 1) -> NDArray[np.float32]:
    """The views of a video's frames as the network takes them, float32 in [-1, 1]: `cut_views`, normalised."""
    return PIXELS.normalize(cut_views(frames, size, seed, crops))


def cut_views(frames: Sequence[RgbFrame], size: int, seed: int = 0, crops: int = 1) -> NDArray[np.uint8]:
    """The views in pixels, as `cut_views_at`, with crops at the places that `seed` alone decides.

    Crop 0 is the same whatever `crops` is.

    Raises:
        TypeError, ValueError: as `cut_views_at`; or a number is out of range.
    """
    size, seed, crops = check_numbers(size, seed, crops)
    return cut_views_at(frames, size, crop_places(seed, crops))


def cut_views_at(frames: Sequence[RgbFrame], size: int, places: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The views of a video's frames in pixels, [crops, 2N, 3, size, size] uint8.

    Frame i's semantic view (the whole frame, resized, aspect not kept) is at 2i of the second axis, its distortion
    view (a square at native resolution) at 2i + 1. A frame with a side under `size` is first scaled up until its
    short side is `size`. All frames share the crop's place, so frames may differ in size.

    Args:
        frames: N arrays [H, W, 3] uint8 RGB.
        size: of a view, pixels.
        places: of the crops, [crops, 2] as fractions (x, y) in [0, 1) of the room that they have.

    Raises:
        TypeError, ValueError: a frame is of the wrong dtype or shape.
    """
    check_frames(frames)
    pixels = np.empty((len(places), 2 * len(frames), size, size, 3), np.uint8)
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


def check_numbers(size: int, seed: int, crops: int) -> tuple[int, int, int]:
    """The three as plain integers; all that make views refuse the same in the same words.

    Raises ValueError where one is out of range.
    """
    return whole("size", size, 1, 2**16), check_seed(seed), check_crops(crops)


def _crop(image: Image.Image, size: int, place: NDArray[np.float64]) -> Image.Image:
    region = crop_region(*image.size, size, place)
    if min(image.size) >= size:
        return image.crop(region)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=region)
