"""DiffV²IQA sees crops of pictures, and every frame of a video as a picture."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from diffvqa_rt.errors import InputError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffv2iqa.metric import METRIC
from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.preparation import prepare_frames
from diffvqa_rt.video import sample_frames

S = TINY.view_size
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (150, 200, 3), np.uint8)


def prepared(source, config=TINY, **options):
    request = Request(**options)
    sampled = sample_frames(
        source,
        METRIC.frame_count(config, request),
        animation_count=METRIC.animation_frame_count(config, request),
    )
    return prepare_frames(sampled, METRIC, config, request, 0)


def encoded(picture: Image.Image, format_name: str, **options) -> bytes:
    content = io.BytesIO()
    picture.save(content, format_name, **options)
    return content.getvalue()


def test_a_still_has_five_crops_at_native_resolution():
    source = prepared(encoded(Image.fromarray(PICTURE), "PNG"))
    assert source.arrays["x"].shape == (5, 3, S, S) and source.timestamps_seconds == (0.0,)
    assert len(set(source.crop_regions)) == 5
    for view, (left, top, right, bottom) in zip(source.arrays["x"], source.crop_regions, strict=True):
        np.testing.assert_array_equal(view, PICTURE[top:bottom, left:right].transpose(2, 0, 1))


def test_the_seed_places_the_crops_and_a_crop_keeps_its_place():
    five, other = prepared(PICTURE), prepared(PICTURE, seed=1)
    two = prepared(PICTURE, crops=2)
    np.testing.assert_array_equal(two.arrays["x"], five.arrays["x"][:2])
    assert set(five.crop_regions).isdisjoint(other.crop_regions)


def test_a_video_has_eight_frames_and_one_crop_all_at_one_place():
    clip = np.stack([np.full((150, 200, 3), 10 * frame, np.uint8) for frame in range(16)])
    source = prepared(clip)
    assert source.arrays["x"].shape == (8, 3, S, S)
    assert source.arrays["x"][:, 0, 0, 0].tolist() == [10 * (2 * frame + 1) for frame in range(8)]
    crops_first = prepared(clip, frames=4, crops=3).arrays["x"]
    assert crops_first[:, 0, 0, 0].tolist() == [20, 60, 100, 140] * 3
    assert len(prepared(clip, frames=4, crops=3).timestamps_seconds) == 4


def test_a_video_of_one_frame_is_a_still():
    still, video = prepared(PICTURE), prepared(PICTURE[None])
    np.testing.assert_array_equal(still.arrays["x"], video.arrays["x"])


def test_an_animation_is_the_picture_at_its_middle_unless_frames_are_asked_for():
    pictures = [Image.fromarray(np.full((120, 120, 3), 20 * index, np.uint8)) for index in range(5)]
    animation = encoded(pictures[0], "PNG", save_all=True, append_images=pictures[1:], duration=100)
    assert prepared(animation).arrays["x"].shape == (5, 3, S, S)
    assert set(np.unique(prepared(animation).arrays["x"])) == {40}
    assert np.unique(prepared(animation, frames=5).arrays["x"]).tolist() == [0, 20, 40, 60, 80]


def test_pixels_are_the_decoders_without_alpha_upright_and_of_eight_bits():
    views = prepared(encoded(Image.fromarray(PICTURE), "PNG")).arrays["x"]
    with_alpha = np.dstack([PICTURE, RNG.integers(0, 256, PICTURE.shape[:2], np.uint8)])
    np.testing.assert_array_equal(prepared(encoded(Image.fromarray(with_alpha), "PNG")).arrays["x"], views)
    exif = Image.Exif()
    exif[0x0112] = 5  # mirrored, and turned: stored transposed
    turned = encoded(Image.fromarray(np.ascontiguousarray(PICTURE.transpose(1, 0, 2))), "PNG", exif=exif)
    np.testing.assert_array_equal(prepared(turned).arrays["x"], views)
    deep = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)
    grey = prepared(encoded(deep, "PNG")).arrays["x"].astype(int)
    assert np.abs(grey - views[:, :1].astype(int)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (400, 5), (95, 95)])
def test_a_side_under_a_view_is_scaled_up_and_a_warning_says_so(size):
    source = prepared(RNG.integers(0, 256, (*size, 3), np.uint8))
    assert source.arrays["x"].shape == (5, 3, S, S)
    assert [warning.code for warning in source.warnings] == ["views-scaled-up"]


def test_a_view_may_be_the_whole_picture():
    whole = dataclasses.replace(TINY, view="resize")
    source = prepared(PICTURE, whole)
    expected = np.asarray(Image.fromarray(PICTURE).resize((S, S), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(source.arrays["x"][0], expected.transpose(2, 0, 1))
    assert source.arrays["x"].shape[0] == 1 and source.crop_regions == ((0, 0, 200, 150),)


def test_results_are_means_over_frames_and_shares_add_up():
    crops, frames, grid = 3, 4, TINY.grid
    branches = RNG.random((crops * frames, 2), np.float32)
    maps = RNG.random((crops * frames, 2, grid, grid), np.float32)
    outputs = {
        "view_scores": 100 * branches.sum(1),
        "branch_scores": branches,
        "patch_scores": maps,
        "patch_weights": maps,
    }
    results = METRIC.finish(TINY, outputs, frames)
    assert {name: values.shape for name, values in results.items()} == {
        spec.name: tuple({"videos": crops, "frames": frames}.get(size, size) for size in spec.shape)
        for spec in METRIC.results(TINY, METRIC.name)
    }
    assert METRIC.part_names(TINY) == ("vcg", "vda")
    np.testing.assert_allclose(results["vcg"] + results["vda"], results["score"], rtol=1e-6)
    np.testing.assert_allclose(results["score"], results["frame_scores"].mean(1), rtol=1e-6)
    np.testing.assert_array_equal(results["frame_scores"][1], outputs["view_scores"][frames : 2 * frames])
    np.testing.assert_array_equal(results["patch_scores"][2, 3], maps[-1])


def test_one_metric_has_an_option_and_another_has_not():
    from diffvqa_rt.metrics.diffvqa.metric import METRIC as DIFFVQA

    METRIC.check(Request(crops=2, frames=3, patch_maps=True))
    DIFFVQA.check(Request(crops=2))
    with pytest.raises(InputError, match="frames is 3; DiffVQA does not take it, leave it out"):
        DIFFVQA.check(Request(frames=3))
    with pytest.raises(InputError, match="patch_maps is True"):
        DIFFVQA.check(Request(patch_maps=True))
    with pytest.raises(InputError, match="frames is 0"):
        Request(frames=0)
