"""Pristine clips: which contents go where, how the camera moves, which parts of a video are cut."""

from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from diffvqa_rt.synthetic import camera
from diffvqa_rt.synthetic.clip_files import write_clip
from diffvqa_rt.synthetic.pool import PoolItem, read_pool
from diffvqa_rt.synthetic.scenes import (
    LEAST_REDUCTION,
    Scene,
    is_large_enough,
    motion_of,
    plan_scenes,
    render_scene,
    split_groups,
)

SIZE = (352, 192)


def plan(items, contents=None, seed=0, size=SIZE):
    return plan_scenes(items, contents=contents, size=size, cuts=2, seed=seed, validation_share=0.2)


def item(kind="video", width=128, height=96) -> PoolItem:
    return PoolItem(
        kind=kind, content="a", group="a", package="clips", path="a", sha256="", width=width, height=height, licence=""
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_both_sides_of_the_split(seed):
    sides = defaultdict(set)
    for scene in plan(read_pool(), seed=seed):
        sides[scene.item.group].add(scene.split)
    assert all(len(side) == 1 for side in sides.values())
    scenes = plan(read_pool(), seed=seed)
    assert 0.15 < np.mean([scene.split == "validation" for scene in scenes]) < 0.25
    assert any(scene.split == "validation" for scene in scenes if scene.item.kind == "video")


def test_the_seed_decides_the_split_and_the_order():
    assert plan(read_pool()) == plan(read_pool())
    items = read_pool()
    assert split_groups(items, 0, 0.2) != split_groups(items, 1, 0.2)
    assert [s.name for s in plan(items, seed=0)] != [s.name for s in plan(items, seed=1)]


def test_a_larger_set_begins_with_the_smaller_one():
    small, large = plan(read_pool(), contents=9), plan(read_pool(), contents=40)
    assert large[: len(small)] == small and len({scene.item.content for scene in large}) == 40
    assert sum(scene.item.kind == "video" for scene in large) == 2 * 10 and len(large) == 80


def test_every_content_has_two_pixels_for_one():
    scenes = plan(read_pool())
    assert all(scene.item.width >= 2 * SIZE[0] and scene.item.height >= 2 * SIZE[1] for scene in scenes)
    assert not is_large_enough(item(width=127), 64, 48) and is_large_enough(item(), 64, 48)
    # A photograph needs room to turn and shake beside it.
    assert not is_large_enough(item("photo"), 64, 48) and is_large_enough(item("photo", 160, 120), 64, 48)


@pytest.mark.parametrize("photo_size", [(800, 500), (1024, 768), (3000, 2000), (1100, 430)])
@pytest.mark.parametrize("seed", range(4))
def test_the_camera_moves_smoothly_and_stays_inside_the_photograph(photo_size, seed):
    generator = np.random.default_rng(seed)
    # White, so that anything from outside would show as black.
    clip, how = camera.film(Image.new("RGB", photo_size, "white"), SIZE, 12, LEAST_REDUCTION, generator)
    assert clip.shape == (12, 192, 352, 3) and clip.min() == 255
    assert min(how["reductions"]) >= LEAST_REDUCTION - 1e-9


def test_the_camera_starts_and_stops_softly():
    for seed in range(20):
        path = camera.camera_path((1000, 700), SIZE, 48, (1.0, 2.2), np.random.default_rng(seed))
        velocity = np.diff(path[:, :2] / path[:, 2:3], axis=0)
        # Pixels of the clip, from one frame to the next; a jump would be tens of them.
        assert np.abs(np.diff(velocity, axis=0)).max() < 3
        assert np.abs(velocity).sum() > 3


def test_filming_keeps_straight_lines_straight_and_detail_without_aliasing():
    """Stripes finer than a clip's pixel come out grey, stripes of several pixels come out as stripes."""
    x = np.arange(1600)
    for period, least, most in [(3, 0, 12), (40, 80, 255)]:
        stripes = np.repeat((255 * (x % period < period / 2)).astype(np.uint8)[None], 900, 0)
        photo = Image.fromarray(np.repeat(stripes[..., None], 3, -1))
        clip, _ = camera.film(photo, SIZE, 6, LEAST_REDUCTION, np.random.default_rng(3))
        assert least <= clip[:, 20:-20, 20:-20].std(axis=(1, 2)).mean() <= most, period


def test_a_photograph_becomes_the_same_clip_again(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    Image.fromarray(noise).resize((900, 600)).save(tmp_path / "a.png")
    scene = Scene(name="a", item=item("photo", 900, 600), cut=0, split="train")

    def render(seed: int):
        return render_scene(scene, tmp_path / "a.png", size=SIZE, frames=8, seed=seed)

    assert np.array_equal(render(0).frames, render(0).frames)
    assert not np.array_equal(render(0).frames, render(1).frames)
    assert render(0).frame_rate_hz == 24 and motion_of(render(0).frames) > 0.4


@pytest.fixture
def video(tmp_path):
    """At 15 Hz: 20 frames still, 30 frames moving, a cut, 30 frames still, 24 frames moving slowly."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 100, 3), np.uint8)
    wide = np.asarray(Image.fromarray(noise).resize((1000, 300)))
    other = 255 - wide[::-1, ::-1]
    shifts = (
        [(wide, 0)] * 20 + [(wide, 8 * i) for i in range(30)] + [(other, 0)] * 30 + [(other, 3 * i) for i in range(24)]
    )
    frames = np.stack([picture[:96, at : at + 128] for picture, at in shifts])
    write_clip(tmp_path / "a.mp4", frames, Fraction(15))
    return tmp_path / "a.mp4"


def test_the_liveliest_parts_of_a_video_are_cut_without_overlap_or_change_of_scene(video):
    def render(cut: int):
        scene = Scene(name=f"a-{cut}", item=item(), cut=cut, split="train")
        return render_scene(scene, video, size=(64, 48), frames=16, seed=0)

    cuts = [render(cut) for cut in range(3)]
    starts = [clip.how["start_frame"] for clip in cuts]
    # The second begins in the still part, but most of it moves.
    assert 20 <= starts[0] <= 34 and starts[1] == starts[0] - 16 and starts[2] >= 80
    assert min(abs(a - b) for a in starts for b in starts if a != b) >= 16
    # Frames 49 and 50 are of two scenes.
    assert not any(start <= 49 < start + 15 for start in starts)
    assert cuts[0].frame_rate_hz == 15 and cuts[0].frames.shape == (16, 48, 64, 3)
    assert motion_of(cuts[0].frames) > 2 * motion_of(cuts[2].frames)
    assert render(9) is None


def test_a_video_shorter_than_a_clip_makes_none(video):
    scene = Scene(name="a-0", item=item(), cut=0, split="train")
    assert render_scene(scene, video, size=(64, 48), frames=105, seed=0) is None
