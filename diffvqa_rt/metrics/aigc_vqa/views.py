"""The two views of a video's frames: small pieces of all of it at native resolution, and all of it shrunk (SPEC §2)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.video.crops import RgbFrame, check_frames, crop_places

_BICUBIC = Image.Resampling.BICUBIC


def piece_places(config: AigcVqaConfig, seed: int, draws: int) -> NDArray[np.float64]:
    """The place of each mini-patch in its cell, [draws, G, G, 2] as fractions (x, y) in [0, 1), row by row.

    The seed alone decides; draw 0 is the same whatever `draws` is.
    """
    grid = config.grid
    return crop_places(seed, draws * grid * grid).reshape(draws, grid, grid, 2)


def cut_fragments(config: AigcVqaConfig, frames: Sequence[RgbFrame], places: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The technical view in pixels, [draws, T, 3, S, S] uint8 (§3.1).

    A frame is divided into G×G cells; out of each comes one piece of f×f pixels as they are, at the same place in all
    frames, and the pieces stand side by side in their order. A frame with a side under S is first scaled up until its
    short side is S. Up to G − 1 pixels at the right and at the bottom belong to no cell.

    Args:
        frames: T arrays [H, W, 3] uint8 RGB, of any sizes.
        places: as `piece_places` gives them.

    Raises:
        TypeError, ValueError: a frame is of another dtype or shape.
    """
    check_frames(frames)
    size = config.view_size
    pixels = np.empty((len(places), len(frames), size, size, 3), np.uint8)
    for index, frame in enumerate(frames):
        for draw, own in enumerate(places):
            if index and frame is frames[index - 1]:
                pixels[draw, index] = pixels[draw, index - 1]
            else:
                _cut_pieces(config, frame, own, pixels[draw, index])
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 2))


def _cut_pieces(config: AigcVqaConfig, frame: RgbFrame, places: NDArray[np.float64], into: NDArray[np.uint8]) -> None:
    piece, height, width = config.mini_patch, *frame.shape[:2]
    short = min(width, height)
    is_scaled = short < config.view_size
    across, down = (round(side * config.view_size / short) if is_scaled else side for side in (width, height))
    cell_width, cell_height = across // config.grid, down // config.grid
    image = Image.fromarray(frame) if is_scaled else None
    for row, column in np.ndindex(*places.shape[:2]):
        x, y = places[row, column]
        left = column * cell_width + int(x * (cell_width - piece + 1))
        top = row * cell_height + int(y * (cell_height - piece + 1))
        target = into[row * piece : (row + 1) * piece, column * piece : (column + 1) * piece]
        if image is None:
            target[:] = frame[top : top + piece, left : left + piece]
            continue
        # Only the piece is scaled: a sliver of a picture scaled whole could fill the memory.
        region = (
            left * width / across,
            top * height / down,
            (left + piece) * width / across,
            (top + piece) * height / down,
        )
        target[:] = np.asarray(image.resize((piece, piece), _BICUBIC, box=region))


def shrink(config: AigcVqaConfig, frames: Sequence[RgbFrame]) -> NDArray[np.uint8]:
    """The view of the aesthetic and the alignment branch, [T, 3, S, S] uint8: whole frames, aspect not kept (§3.2).

    Raises:
        TypeError, ValueError: as `cut_fragments`.
    """
    check_frames(frames)
    size = config.view_size
    pixels = np.empty((len(frames), size, size, 3), np.uint8)
    for index, frame in enumerate(frames):
        if index and frame is frames[index - 1]:
            pixels[index] = pixels[index - 1]
        else:
            pixels[index] = np.asarray(Image.fromarray(frame).resize((size, size), _BICUBIC))
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
