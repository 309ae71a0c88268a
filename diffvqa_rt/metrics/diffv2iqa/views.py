"""The views of a picture, or of each frame of a video, that the network sees (SPEC §1)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig
from diffvqa_rt.video.crops import Region, RgbFrame, check_frames, crop_places, crop_regions


def view_regions(config: DiffV2IQAConfig, width: int, height: int, request: Request) -> tuple[Region, ...]:
    """The part of a picture that each crop shows; all of it where views are pictures shrunk whole."""
    if config.view == "resize":
        return ((0, 0, width, height),) * request.settled_crops
    return crop_regions(width, height, config.view_size, crop_places(request.seed, request.settled_crops))


def cut_views(config: DiffV2IQAConfig, frames: Sequence[RgbFrame], request: Request) -> NDArray[np.uint8]:
    """The views in pixels, [crops · N, 3, S, S] uint8: all frames of the first crop, then of the next.

    A crop is S×S pixels as they are. A frame with a side under S is first scaled up until its short side is S (D3). All
    frames share the places of the crops, which the seed alone decides.

    Args:
        config: of the network.
        frames: N arrays [H, W, 3] uint8 RGB, of any sizes.
        request: its seed and its crops.

    Raises:
        ValueError, TypeError: a frame is of another shape or dtype.
    """
    check_frames(frames)
    size = config.view_size
    pixels = np.empty((request.settled_crops, len(frames), size, size, 3), np.uint8)
    for index, frame in enumerate(frames):
        if index and frame is frames[index - 1]:
            pixels[:, index] = pixels[:, index - 1]
            continue
        image = Image.fromarray(frame)
        for crop, region in enumerate(view_regions(config, *image.size, request)):
            pixels[crop, index] = np.asarray(_cut(image, size, region))
    return np.ascontiguousarray(np.moveaxis(pixels.reshape(-1, size, size, 3), -1, 1))


def _cut(image: Image.Image, size: int, region: Region) -> Image.Image:
    left, top, right, bottom = region
    if (right - left, bottom - top) == (size, size):
        return image.crop((int(left), int(top), int(right), int(bottom)))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=region)
