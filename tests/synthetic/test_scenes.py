"""Pristine clips: which contents go where, of which sizes, how the camera moves, which parts of a video are cut."""

from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.synthetic import camera
from diffvqa_rt.synthetic.clip_files import write_clip
from diffvqa_rt.synthetic.pool import PoolItem, read_pool
from diffvqa_rt.synthetic.scenes import (
    FRAME_RATES_HZ,
    LEAST_PHOTO_REDUCTION,
    SIZES,
    Scene,
    is_large_enough,
    motion_of,
    plan_scenes,
    render_scene,
    split_groups,
)

SIZE = (352, 192)


def plan(items, contents=None, seed=0, sizes=tuple(SIZES), cuts=2):
    return plan_scenes(items, contents=contents, sizes=sizes, cuts=cuts, seed=seed, validation_share=0.2)


def item(kind="video", width=128, height=96, reduction=1.0) -> PoolItem:
    return PoolItem(
        kind=kind, content="a", group="a", package="media", path="a", sha256="", width=width, height=height,
        reduction=reduction, licence="",
    )  # fmt: skip


def scene_of(kind, width, height, size, reduction=1.0, cut=0) -> Scene:
    return Scene(name=f"a-{cut}", item=item(kind, width, height, reduction), cut=cut, size=size, split="train")


@pytest.mark.parametrize("seed", range(3))
def test_no_group_is_on_both_sides_of_the_split(seed):
    sides, contents = defaultdict(set), {}
    for scene in plan(read_pool(), seed=seed):
        sides[scene.item.group].add(scene.split)
        contents[scene.item.content] = scene
    assert all(len(side) == 1 for side in sides.values())
    for kind in ("photo", "video"):
        held_out = [scene.split == "validation" for scene in contents.values() if scene.item.kind == kind]
        assert 0.1 < np.mean(held_out) < 0.3


def test_the_seed_decides_the_split_the_order_and_the_sizes():
    items = read_pool()
    assert plan(items) == plan(items)
    assert split_groups(items, 0, 0.2) != split_groups(items, 1, 0.2)
    assert [s.name for s in plan(items, seed=0)] != [s.name for s in plan(items, seed=1)]
    sizes = [{s.name: s.size for s in plan(items, seed=seed)} for seed in (0, 1)]
    assert any(sizes[0][name] != sizes[1][name] for name in sizes[0].keys() & sizes[1].keys())


def test_a_larger_set_has_the_scenes_of_the_smaller_one():
    small, large = plan(read_pool(), contents=9), plan(read_pool(), contents=40)
    assert [scene for scene in large if scene in small] == small
    assert len({scene.item.content for scene in large}) == 40
    # A video after every third photograph; all first cuts, then all second ones.
    assert sum(scene.item.kind == "video" for scene in large if not scene.cut) == 10
    assert [scene.cut for scene in large] == sorted(scene.cut for scene in large)


def test_a_held_out_photograph_has_one_cut_and_all_others_as_many_as_asked_for():
    cuts = Counter((scene.item.content, scene.item.kind, scene.split) for scene in plan(read_pool(), cuts=3))
    assert {(kind, split, count) for (_, kind, split), count in cuts.items()} == {
        ("photo", "train", 3), ("photo", "validation", 1), ("video", "train", 3), ("video", "validation", 3),
    }  # fmt: skip


def test_a_content_has_clips_of_the_sizes_that_it_is_large_enough_for_and_each_once_before_any_twice():
    scenes = plan(read_pool(), cuts=3)
    sizes = defaultdict(list)
    for scene in scenes:
        assert is_large_enough(scene.item, scene.size)
        # Pixels that a camera recorded across one of the clip's, at its widest view.
        most = min(scene.item.width / scene.size[0], scene.item.height / scene.size[1]) * scene.item.reduction
        assert most >= (LEAST_PHOTO_REDUCTION if scene.item.kind == "photo" else 1)
        sizes[scene.item].append(scene.size)
    for content, used in sizes.items():
        fitting = [size for size in SIZES if is_large_enough(content, size)]
        assert len(set(used)) == min(len(used), len(fitting))
    assert {scene.size for scene in scenes if not scene.cut} == set(SIZES)


@pytest.mark.parametrize(
    ("kind", "width", "height", "reduction", "is_enough"),
    [
        # A video's frames may have the clip's size, as people upload them.
        ("video", 640, 360, 1.0, True),
        ("video", 638, 360, 1.0, False),
        ("video", 360, 640, 1.0, False),
        # A photograph needs room to turn and shake, and 1.25 pixels that were recorded for one.
        ("photo", 640, 360, 4.0, True),
        ("photo", 800, 450, 1.0, False),
        ("photo", 815, 466, 1.0, True),
        ("photo", 660, 370, 1.2, False),
        ("photo", 660, 380, 1.25, True),
        # Nor may it be drawn much larger, however sharp it is.
        ("photo", 450, 260, 9.0, False),
        ("photo", 456, 260, 9.0, True),
    ],
)
def test_a_source_is_large_enough_by_its_pixels_and_by_what_was_recorded(kind, width, height, reduction, is_enough):
    assert is_large_enough(item(kind, width, height, reduction), (640, 360)) == is_enough


@pytest.mark.parametrize(
    ("photo_size", "size"),
    [
        ((800, 500), SIZE),
        ((3000, 2000), SIZE),
        ((1100, 430), SIZE),
        ((1317, 741), (1280, 720)),
        ((900, 900), (360, 640)),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_the_camera_moves_smoothly_and_stays_inside_the_photograph(photo_size, size, seed):
    generator = np.random.default_rng(seed)
    room = camera.room_needed(*size)
    least = min(1.2, photo_size[0] / room[0], photo_size[1] / room[1])
    # White, so that anything from outside would show as black.
    clip, how = camera.film(Image.new("RGB", photo_size, "white"), size, 3, 0.25, least, generator)
    assert clip.shape == (3, size[1], size[0], 3) and clip.min() == 255
    assert min(how["reductions"]) >= least - 1e-3


def test_the_camera_moves_by_the_second_and_without_jumps():
    for seed in range(20):
        for frames, seconds in [(48, 2.0), (24, 0.4)]:
            path = camera.camera_path((1000, 700), SIZE, frames, seconds, (1.0, 2.2), np.random.default_rng(seed))
            velocity = np.diff(path[:, :2] / path[:, 2:3], axis=0)
            # Pixels of the clip, from one frame to the next; a jump would be tens of them.
            assert np.abs(np.diff(velocity, axis=0)).max() < 3
            moved = np.linalg.norm(path[-1, :2] - path[0, :2])
            # A quarter of the width a second at most, at the zoom in the middle, and twice the shake.
            assert moved <= 0.25 * SIZE[0] * seconds * 2.2 + 2 * 2 * np.sqrt(2) * 2.2


def test_filming_keeps_straight_lines_straight_and_detail_without_aliasing():
    """Stripes finer than a clip's pixel come out grey, stripes of several pixels come out as stripes."""
    x = np.arange(1600)
    for period, least, most in [(3, 0, 12), (40, 80, 255)]:
        stripes = np.repeat((255 * (x % period < period / 2)).astype(np.uint8)[None], 900, 0)
        photo = Image.fromarray(np.repeat(stripes[..., None], 3, -1))
        clip, _ = camera.film(photo, SIZE, 6, 0.25, 2.0, np.random.default_rng(3))
        assert least <= clip[:, 20:-20, 20:-20].std(axis=(1, 2)).mean() <= most, period


def test_a_photograph_becomes_the_same_clip_again_at_one_of_the_frame_rates(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    Image.fromarray(noise).resize((400, 260)).save(tmp_path / "a.png")

    def render(seed: int, frames: int = 8):
        return render_scene(scene_of("photo", 400, 260, (64, 48)), tmp_path / "a.png", frames=frames, seed=seed)

    one, again, other = render(0), render(0), render(1)
    assert np.array_equal(one.frames, again.frames) and one.frames.shape == (8, 48, 64, 3)
    assert not np.array_equal(one.frames, other.frames)
    assert {render(seed, 2).frame_rate_hz for seed in range(24)} == set(FRAME_RATES_HZ)


def test_a_photograph_that_is_none_is_a_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(
        SyntheticSetError, match=r"a.png cannot be read \(cannot identify .*\); start again to fetch it"
    ):
        render_scene(scene_of("photo", 900, 600, SIZE), tmp_path / "a.png", frames=8, seed=0)


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
        return render_scene(scene_of("video", 128, 96, (64, 48), cut=cut), video, frames=16, seed=0)

    cuts = [render(cut) for cut in range(3)]
    starts = [clip.how["start_frame"] for clip in cuts]
    # The second begins in the still part, but most of it moves.
    assert 20 <= starts[0] <= 34 and starts[1] == starts[0] - 16 and starts[2] >= 80
    assert min(abs(a - b) for a in starts for b in starts if a != b) >= 16
    # Frames 49 and 50 are of two scenes.
    assert not any(start <= 49 < start + 15 for start in starts)
    assert cuts[0].frame_rate_hz == 15 and cuts[0].frames.shape == (16, 48, 64, 3)
    assert motion_of(cuts[0].frames) > 2 * motion_of(cuts[2].frames)
    # The first shows all of the picture, the others a part of it that is drawn, no pixel of it larger than it was.
    assert cuts[0].how["box"] == [0, 0, 128, 96] and all(1 <= clip.how["reduction"] < 2 for clip in cuts[1:])
    assert render(9) is None


def test_a_video_shorter_than_a_clip_makes_none(video):
    assert render_scene(scene_of("video", 128, 96, (64, 48)), video, frames=105, seed=0) is None
