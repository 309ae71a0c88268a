"""The technical view is made of pieces of the whole frame as they are; the other is the whole frame, shrunk."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from diffvqa_rt.metrics.aigc_vqa.presets import TINY
from diffvqa_rt.metrics.aigc_vqa.views import cut_fragments, piece_places, shrink

S, G, F = TINY.view_size, TINY.grid, TINY.mini_patch
RNG = np.random.default_rng(0)


def fragments(frames, seed=0, draws=1):
    return cut_fragments(TINY, frames, piece_places(TINY, seed, draws))


def pieces(view):
    """[G, G, F, F, 3] of a view [3, S, S]."""
    return view.transpose(1, 2, 0).reshape(G, F, G, F, 3).swapaxes(1, 2)


@pytest.mark.parametrize("size", [(224, 224), (230, 511), (1080, 1920)])
def test_a_piece_comes_untouched_out_of_its_own_cell(size):
    rows, columns = np.indices(size)
    frame = np.stack([rows % 256, columns % 256, (rows // 256) * 16 + columns // 256], axis=-1).astype(np.uint8)
    height, width = (side // G for side in size)
    for (row, column), piece in ((place, pieces(fragments([frame])[0, 0])[place]) for place in np.ndindex(G, G)):
        piece = piece.astype(int)
        y, x = piece[..., 0] + (piece[..., 2] // 16) * 256, piece[..., 1] + (piece[..., 2] % 16) * 256
        assert row * height <= y[0, 0] and y[-1, 0] < (row + 1) * height
        assert column * width <= x[0, 0] and x[0, -1] < (column + 1) * width
        np.testing.assert_array_equal(y, y[0, 0] + np.indices((F, F))[0])
        np.testing.assert_array_equal(x, x[0, 0] + np.indices((F, F))[1])


def test_pieces_reach_every_place_of_a_cell_and_no_other():
    """Also the last one, which DOVER's own offset never takes."""
    places = piece_places(TINY, 0, 400)
    lefts = (places[..., 0] * (40 - F + 1)).astype(int)
    assert set(lefts.ravel()) == set(range(40 - F + 1))


def test_all_frames_share_the_places_and_the_seed_decides_them():
    noise = RNG.integers(0, 256, (300, 400, 3), np.uint8)
    video = fragments([noise, noise + np.uint8(1), noise], draws=3)
    assert video.shape == (3, 3, 3, S, S)
    np.testing.assert_array_equal(video[:, 1], video[:, 0] + np.uint8(1))
    np.testing.assert_array_equal(video[:, 2], video[:, 0])
    np.testing.assert_array_equal(fragments([noise])[0], video[0, :1])
    assert len({view.tobytes() for view in (*video[:, 0], fragments([noise], seed=1)[0, 0])}) == 4


def test_the_bytes_of_a_seed_do_not_change():
    gradient = (np.indices((480, 720)).sum(0) % 256).astype(np.uint8)
    digest = hashlib.sha256(fragments([np.dstack([gradient] * 3)], seed=7).tobytes()).hexdigest()
    assert digest.startswith("a9b2c863afd7fc77")


@pytest.mark.parametrize("size", [(1, 1), (100, 60), (223, 500), (500, 223), (2, 3000)])
def test_a_small_frame_is_scaled_up_as_a_whole_would_be(size):
    """By pieces: a sliver scaled whole could fill the memory."""
    height, width = size
    smooth = np.asarray(Image.fromarray(RNG.integers(0, 256, (4, 4, 3), np.uint8)).resize((width, height)))
    ours = fragments([smooth])
    assert ours.shape == (1, 1, 3, S, S)
    if max(size) <= 500:
        factor = S / min(size)
        whole = Image.fromarray(smooth).resize(
            (round(width * factor), round(height * factor)), Image.Resampling.BICUBIC
        )
        theirs = fragments([np.asarray(whole)])
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 2 and (difference > 1).mean() < 1e-3  # roundings between two passes


def test_frames_of_several_sizes_are_cut_each_by_its_own():
    large, small = (np.full((*size, 3), 7, np.uint8) for size in ((480, 640), (240, 320)))
    assert np.unique(fragments([large, small])).tolist() == [7]


def test_the_other_view_is_the_whole_frame():
    frame = RNG.integers(0, 256, (300, 400, 3), np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((S, S), Image.Resampling.BICUBIC))
    view = shrink(TINY, [frame, frame])
    assert view.shape == (2, 3, S, S)
    np.testing.assert_array_equal(view[1].transpose(1, 2, 0), expected)


@pytest.mark.parametrize("make", [fragments, lambda frames: shrink(TINY, frames)])
def test_what_is_no_frame_is_refused(make):
    with pytest.raises(ValueError, match="frames is empty"):
        make([])
    with pytest.raises(TypeError, match=r"frames\[0\] is an array of float64"):
        make([np.zeros((9, 9, 3))])
    with pytest.raises(ValueError, match=r"frames\[0\] is of shape \(9, 9\)"):
        make([np.zeros((9, 9), np.uint8)])
