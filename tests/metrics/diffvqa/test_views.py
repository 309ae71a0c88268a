"""The views against Pillow used step by step as SPEC §1 words it."""

import time

import numpy as np
import pytest
from clips import moving_picture
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.metrics.diffvqa.views import make_views
from diffvqa_rt.video import crop_places

# Grey levels between a frame scaled up whole and then cropped, and its piece scaled up: Pillow rounds between its two
# passes, and chooses by the sizes which comes first. (It clips there too: hence no black or white in that test.)
SCALING_TOLERANCE = 2


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def grey_levels(view: NDArray[np.float32]) -> NDArray:
    return ((view + 1) * 127.5).transpose(1, 2, 0)


def test_shape_order_and_scale() -> None:
    frames = [np.full((50, 70, 3), value, np.uint8) for value in (0, 100, 255)]
    views = make_views(frames, 32)
    assert (views.shape, views.dtype) == ((1, 6, 3, 32, 32), np.float32)
    assert views.flags.c_contiguous
    for index, value in enumerate((0, 100, 255)):
        expected = np.float32(value) / np.float32(127.5) - np.float32(1)
        assert (views[0, 2 * index : 2 * index + 2] == expected).all()
    assert (views.min(), views.max()) == (-1, 1)


def test_semantic_view_is_the_whole_frame_resized() -> None:
    frame = picture(70, 50)
    expected = np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(grey_levels(make_views([frame], 32)[0, 0]), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(70, 50), (33, 200), (32, 32), (32, 90)])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_distortion_view_is_a_piece_at_native_resolution(size: tuple[int, int], seed: int) -> None:
    frame = picture(*size)
    views = make_views([frame], 32, seed=seed, crops=3)
    for crop, (x, y) in enumerate(crop_places(seed, 3)):
        left, top = int(x * (size[0] - 32 + 1)), int(y * (size[1] - 32 + 1))
        expected = frame[top : top + 32, left : left + 32]
        np.testing.assert_allclose(grey_levels(views[crop, 1]), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (31, 40), (200, 7), (1, 1), (20, 500)])
def test_a_small_frame_is_scaled_up_first(size: tuple[int, int]) -> None:
    frame = picture(*size) // 2 + 64
    scale = 32 / min(size)
    scaled = Image.fromarray(frame).resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BICUBIC)
    views = make_views([frame], 32, crops=2)
    for crop, (x, y) in enumerate(crop_places(0, 2)):
        left, top = int(x * (scaled.width - 32 + 1)), int(y * (scaled.height - 32 + 1))
        expected = np.asarray(scaled.crop((left, top, left + 32, top + 32)), np.float32)
        assert np.abs(grey_levels(views[crop, 1]) - expected).max() <= SCALING_TOLERANCE + 1e-4


def test_all_frames_share_the_crop() -> None:
    views = make_views([picture(90, 80)] * 2 + [picture(90, 80).copy()], 32, seed=5, crops=4)
    for index in (1, 2):
        np.testing.assert_array_equal(views[:, 2 * index : 2 * index + 2], views[:, :2])
    assert not np.array_equal(views[0, 1], views[1, 1])


def test_crop_numbers_do_not_depend_on_how_many_there_are() -> None:
    frames = [picture(90, 80, seed) for seed in (0, 1)]
    many = make_views(frames, 32, crops=5)
    for crops in (1, 2):
        np.testing.assert_array_equal(make_views(frames, 32, crops=crops), many[:crops])


def test_crop_places_are_pinned() -> None:
    expected = [[0.5115, 0.7415], [0.6114, 0.0644], [0.8036, 0.3487], [0.6561, 0.5311]]
    places = np.concatenate([crop_places(0, 2), crop_places(1, 2)])
    np.testing.assert_allclose(places, expected, atol=1e-4)


def test_frames_may_differ_in_size() -> None:
    views = make_views([picture(64, 48), picture(30, 20), picture(200, 100)], 32)
    assert views.shape == (1, 6, 3, 32, 32)
    np.testing.assert_array_equal(views[:, 4:], make_views([picture(200, 100)], 32))


def test_a_sliver_costs_no_more_than_a_frame() -> None:
    # Scaled up whole, this would be 384 x 23,040,000 pixels.
    start = time.perf_counter()
    assert make_views([np.full((1, 60000, 3), 255, np.uint8)], 384).min() == 1
    assert time.perf_counter() - start < 5


def test_strided_frames_are_read_as_they_look() -> None:
    frame = moving_picture(0, 80, 60)
    np.testing.assert_array_equal(make_views([frame[::-1, ::2]], 32), make_views([frame[::-1, ::2].copy()], 32))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frames": []}, ValueError, "frames is empty"),
        ({"size": 0}, ValueError, "size is 0; expected a whole number from 1"),
        ({"seed": -1}, ValueError, "seed is -1; expected a whole number from 0"),
        ({"crops": 0}, ValueError, "crops is 0; expected a whole number from 1"),
        ({"frames": [np.zeros((4, 4, 3))]}, TypeError, r"frames\[0\] is an array of float64; expected uint8"),
        ({"frames": [np.zeros((4, 4), np.uint8)]}, ValueError, r"frames\[0\] is of shape \(4, 4\)"),
        ({"frames": [np.zeros((0, 4, 3), np.uint8)]}, ValueError, r"frames\[0\] is of shape \(0, 4, 3\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_views(**({"frames": [picture(40, 40)], "size": 32} | arguments))
