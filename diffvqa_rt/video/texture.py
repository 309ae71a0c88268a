"""Places of crops by what a frame shows: where its texture is, and apart from each other."""

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.video.crops import RgbFrame

# Of the cells that a frame is measured in: a patch of the networks.
_CELL = 16
_BELOW_ONE = 1 - 2.0**-20
_LUMA = (77, 150, 29)


def texture_places(frame: RgbFrame, size: int, crops: int) -> NDArray[np.float64]:
    """The place of each crop in the room that it has, [crops, 2] as fractions (x, y) in [0, 1), as `crop_places`.

    The first crop shows most texture: the mean over its cells of √(mean gradient), which one strong edge does not
    decide. Each next one shows most in what those before it left. A crop at native resolution of a large frame is a
    fiftieth of it, and at random is often sky.

    The sums are of whole numbers, and roots are rounded alike everywhere, so that a place does not depend on the
    machine. `crops` does not move the first ones.

    Args:
        frame: [H, W, 3] uint8 RGB.
        size: of a crop, pixels; where a side is smaller, the crop is as wide and high as that side.
        crops: how many.
    """
    cells = _cell_textures(frame)
    side = max(1, min(round(size / _CELL), *cells.shape))
    free = np.ones_like(cells)
    down, across = (cells.shape[axis] - side for axis in (0, 1))
    places = np.empty((crops, 2))
    for crop in range(crops):
        worth = _window_sums(cells * free, side)
        top, left = np.unravel_index(int(worth.argmax()), worth.shape)
        covered = np.s_[top : top + side, left : left + side]
        free[covered] = 0
        # All is covered: begin again.
        if not free.any() or float(worth.max()) <= 0:
            free[:] = 1
        places[crop] = left / across if across else 0.5, top / down if down else 0.5
    return np.minimum(places, _BELOW_ONE)


def _cell_textures(frame: RgbFrame) -> NDArray[np.float64]:
    """√(mean |gradient|) of the luma within each whole cell, [H / 16, W / 16]; of a small frame, one cell."""
    luma = (frame.astype(np.int32) @ np.array(_LUMA, np.int32)) >> 8
    gradient = np.zeros_like(luma)
    gradient[:, 1:] += np.abs(np.diff(luma, axis=1))
    gradient[1:] += np.abs(np.diff(luma, axis=0))
    down, across = (max(side // _CELL, 1) for side in luma.shape)
    high, wide = (min(side, _CELL) for side in luma.shape)
    whole = gradient[: down * high, : across * wide]
    sums = whole.reshape(down, high, across, wide).sum(axis=(1, 3))
    return np.sqrt(sums / (high * wide))


def _window_sums(cells: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The sum within each square of `side` cells."""
    total = np.pad(cells.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
