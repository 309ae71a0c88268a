"""Places of crops by what a frame shows: where its texture is, and apart from each other."""

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.video.crops import RgbFrame

# Of the cells that a frame is measured in: a patch of the networks.
_CELL = 16
_LUMA = (77, 150, 29)
# Of a cell's √(mean gradient), so that sums are exact.
_STEPS = 1024


def texture_places(frame: RgbFrame, size: int, crops: int) -> NDArray[np.float64]:
    """The place of each crop in the room that it has, [crops, 2] as fractions (x, y) in [0, 1), as `crop_places`.

    The first crop shows most texture: the sum over its cells of √(mean gradient), which one strong edge does not
    decide. Each next one shows most in what those before it left; once nothing is left, the same ones come again. Of
    crops that show as much, the one nearest the centre is taken, so that a flat frame is seen at its centre. A crop at
    native resolution of a large frame is a fiftieth of it, and at random is often sky.

    All sums are of whole numbers, and a root is rounded alike everywhere, so that a place does not depend on the
    machine. `crops` does not move the first ones.

    Args:
        frame: [H, W, 3] uint8 RGB.
        size: of a crop, pixels; where a side is smaller, the crop is as wide and high as that side.
        crops: how many.
    """
    cells = _cell_textures(frame)
    shown = min(size, *frame.shape[:2])
    window = min(-(-shown // _CELL), *cells.shape)
    tops_and_lefts = _most_textured(cells, window, crops)
    room = np.array(frame.shape[:2]) - shown
    # In the middle of the pixel, for `crop_region` to find it again.
    places = (np.minimum(tops_and_lefts * _CELL, room) + 0.5) / (room + 1)
    return np.resize(places[:, ::-1], (crops, 2))


def _most_textured(cells: NDArray[np.int64], window: int, most: int) -> NDArray[np.int64]:
    """The top and left of squares of `window` cells, one after the other, [n, 2]: `most`, or until all is covered."""
    left_over = cells.copy()
    centre = np.array(cells.shape) - window
    found: list[NDArray[np.int64]] = []
    while len(found) < most and left_over.any():
        worth = _window_sums(left_over, window)
        best = np.argwhere(worth == worth.max())
        top, left = best[np.square(2 * best - centre).sum(axis=1).argmin()]
        left_over[top : top + window, left : left + window] = 0
        found.append(np.array([top, left]))
    return np.array(found)


def _cell_textures(frame: RgbFrame) -> NDArray[np.int64]:
    """√(mean |gradient|) of the luma within each whole cell, [H / 16, W / 16]; of a small frame, one cell.

    In steps of 1/1024, and one more, so that of two flat crops the one that shows more of what is left counts more.
    """
    red, green, blue = (frame[..., channel] * np.uint16(weight) for channel, weight in enumerate(_LUMA))
    luma = ((red + green + blue) >> 8).astype(np.int16)
    gradient = np.zeros_like(luma)
    gradient[:, 1:] += np.abs(np.diff(luma, axis=1))
    gradient[1:] += np.abs(np.diff(luma, axis=0))
    down, across = (max(side // _CELL, 1) for side in luma.shape)
    high, wide = (min(side, _CELL) for side in luma.shape)
    whole = gradient[: down * high, : across * wide].reshape(down, high, across * wide)
    sums = whole.sum(axis=1, dtype=np.int32).reshape(down, across, wide).sum(axis=2, dtype=np.int64)
    return np.rint(np.sqrt(sums / (high * wide)) * _STEPS).astype(np.int64) + 1


def _window_sums(cells: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """The sum within each square of `side` cells."""
    total = np.pad(cells.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
