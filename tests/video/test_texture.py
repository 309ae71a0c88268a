"""Crops lie where a frame's texture is, one beside the other, at the same places on every machine."""

import time

import numpy as np
import pytest
from clips import painting
from numpy.typing import NDArray

from diffvqa_rt.video.crops import RgbFrame, crop_regions
from diffvqa_rt.video.texture import texture_places

SIZE = 64
SIDES = [1, 5, 15, 16, 17, 63, 64, 65, 100, 333]


def flat(width: int, height: int, grey: int = 128) -> RgbFrame:
    return np.full((height, width, 3), grey, np.uint8)


def with_texture(width: int, height: int, left: int, top: int, side: int, amplitude: int = 40) -> RgbFrame:
    """Grey, with a square of noise."""
    frame = flat(width, height)
    noise = np.random.default_rng(0).integers(-amplitude, amplitude, (side, side, 1))
    frame[top : top + side, left : left + side] += noise.astype(np.uint8)
    return frame


def regions(frame: RgbFrame, crops: int = 1, size: int = SIZE) -> NDArray[np.float64]:
    """Left, top, right and bottom of each crop."""
    height, width, _ = frame.shape
    return np.array(crop_regions(width, height, size, texture_places(frame, size, crops)))


@pytest.mark.parametrize(("left", "top"), [(0, 0), (320, 0), (0, 192), (320, 192), (128, 112), (336, 208)])
def test_the_first_crop_is_where_the_texture_is(left: int, top: int) -> None:
    """The last one at the corner, where a place that is a whole fraction would lead out of the frame."""
    assert regions(with_texture(400, 272, left, top, SIZE)).tolist() == [[left, top, left + SIZE, top + SIZE]]


def test_the_textured_half_is_preferred_to_a_flat_one_with_strong_edges() -> None:
    frame = with_texture(640, 320, 320, 0, 320, amplitude=4)
    frame[:, 100:103] = 255
    frame[150:153, :320] = 0
    assert (regions(frame, 5)[:, 0] >= 320).all()


def test_later_crops_lie_beside_the_earlier_ones_while_there_is_room() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (3 * SIZE, 5 * SIZE, 3), np.uint8)
    found = regions(frame, 6)
    for index, (left, top, right, bottom) in enumerate(found):
        others = np.delete(found, index, axis=0)
        is_apart = (others[:, 0] >= right) | (others[:, 2] <= left) | (others[:, 1] >= bottom) | (others[:, 3] <= top)
        assert is_apart.all()


def test_more_crops_do_not_move_the_first_ones() -> None:
    frame = np.asarray(painting(0, 640, 360))
    many = texture_places(frame, SIZE, 40)
    for crops in (1, 2, 7, 39):
        np.testing.assert_array_equal(texture_places(frame, SIZE, crops), many[:crops])


def test_once_all_is_covered_the_same_crops_come_again() -> None:
    frame = np.asarray(painting(0, 2 * SIZE, SIZE))
    places = texture_places(frame, SIZE, 1000)
    period = len(np.unique(places, axis=0))
    assert period < 10
    np.testing.assert_array_equal(places[period:], places[:-period])


def test_a_flat_frame_is_seen_at_its_centre_and_then_around_it() -> None:
    first, *others = regions(flat(384, 256), 5)
    assert first.tolist() == [160, 96, 160 + SIZE, 96 + SIZE]
    assert len({tuple(region) for region in others}) == 4
    for left, top, _, _ in others:
        assert max(abs(left - 160), abs(top - 96)) == SIZE, "beside the first"


def test_what_is_flat_beside_the_texture_is_seen_next_and_not_a_corner() -> None:
    textured, second = regions(with_texture(384, 256, 2, 2, SIZE - 4), 2)
    assert textured.tolist() == [0, 0, SIZE, SIZE] and second.tolist() == [160, 96, 160 + SIZE, 96 + SIZE]


@pytest.mark.parametrize("width", SIDES)
@pytest.mark.parametrize("height", SIDES)
def test_frames_of_any_size_have_places_within_them(width: int, height: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for size in (64, 192):
        places = texture_places(frame, size, 3)
        assert places.shape == (3, 2) and (places >= 0).all() and (places < 1).all()
        found = regions(frame, 3, size)
        # Of a frame that is scaled up, thirds of a pixel are rounded.
        assert (found[:, :2] >= 0).all() and (found[:, 2:] <= np.array([width, height]) + 1e-9).all()


def test_a_long_frame_is_seen_at_its_textured_end() -> None:
    """A frame that is scaled up: the crop is as wide as the short side."""
    frame = flat(32, 600)
    frame[560:592] = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    ((_, top, _, bottom),) = regions(frame)
    assert (top, bottom) == pytest.approx((560, 592), abs=1)


def test_places_are_the_same_in_every_memory_layout_and_process() -> None:
    """Pinned: they decide scores, and are whole cells of 16 pixels, by whole numbers alone."""
    frame = np.asarray(painting(3, 640, 360))
    found = regions(frame, 4)
    assert found[:, :2].tolist() == [[464, 144], [432, 288], [336, 0], [384, 64]]
    np.testing.assert_array_equal(regions(np.asfortranarray(frame), 4), found)
    np.testing.assert_array_equal(regions(np.ascontiguousarray(frame[:, ::-1])[:, ::-1], 4), found)


@pytest.mark.parametrize(("times", "crops"), [(12, 1), (3, 2**16)])
def test_a_frame_of_8k_takes_no_long_time_nor_do_very_many_crops(times: int, crops: int) -> None:
    """Measured on one core of an AMD EPYC: 14 ms for 1920×1080 pixels, 22 ms with all crops, 200 ms for 8K."""
    frame = np.tile(np.asarray(painting(0, 640, 360)), (times, times, 1))
    start = time.process_time()
    assert texture_places(frame, 192, crops).shape == (crops, 2)
    assert time.process_time() - start < 4
