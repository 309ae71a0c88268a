"""Frame curves judged by labels by frame, on clips that are damaged in part of their length."""

import numpy as np
import pytest
from synthetic_clips import clip_of

from diffvqa_rt.synthetic.agreement.curves import curve_agreement

LABELS = [95.0, 30.0, 40.0, 90.0]
PART = [{"effect": "gaussian_blur"}, {"effect": "part", "frames": [1, 3]}]


def clips_with(scenes, **changes):
    """A pristine clip and one that is blurred in two frames of four, of each scene."""
    pristine = [clip_of(scene, "reference", 0, [100.0] * 4) for scene in scenes]
    return [
        *pristine,
        *(clip_of(scene, "part_blur", 3, **{"labels": LABELS, "steps": PART} | changes) for scene in scenes),
    ]


def judge(clips, curves, weights=(0.25,) * 4):
    """The agreement where all clips of a scene have one curve."""
    scores = {clip.file: np.array(curves[clip.scene]) for clip in clips}
    return curve_agreement(clips, scores, {clip.file: np.array(weights) for clip in clips})


def test_a_curve_that_falls_where_the_damage_is_agrees():
    found = judge(clips_with("a"), {"a": [80.0, 20.0, 30.0, 70.0]})
    assert (found.clips, found.lower, found.most_weight) == (1, 1, 0.25) and found.srcc == pytest.approx(1)


def test_each_clip_counts_alike_and_a_flat_curve_follows_nothing():
    found = judge(clips_with("abc"), {"a": [80.0, 20.0, 30.0, 70.0], "b": [1.0, 4.0, 3.0, 2.0], "c": [50.0] * 4})
    # Each frame of b is in the contrary order.
    assert (found.clips, found.lower) == (3, pytest.approx(1 / 3)) and found.srcc == pytest.approx(0, abs=1e-9)


def test_labels_that_are_flat_have_no_order_to_follow():
    found = judge(clips_with("a", labels=[95.0, 94.8, 94.9, 95.0]), {"a": [4.0, 1.0, 2.0, 3.0]})
    assert (found.clips, found.lower, found.srcc) == (1, 1, None)


def test_damage_that_no_sampled_frame_shows_or_all_of_them_is_not_judged():
    for frames in ([9, 12], [0, 4]):
        clips = clips_with("a", steps=[{"effect": "gaussian_blur"}, {"effect": "part", "frames": frames}])
        assert judge(clips, {"a": [4.0, 1.0, 2.0, 3.0]}).clips == 0


def test_the_largest_weight_is_that_of_pristine_clips():
    clips = clips_with("a")
    even, one = np.full(4, 0.25), np.array([0.9, 0.1, 0.0, 0.0])
    curves = {clip.file: np.arange(4.0) for clip in clips}
    assert curve_agreement(clips, curves, {clips[0].file: even, clips[1].file: one}).most_weight == 0.25
    assert curve_agreement(clips[1:], curves, {clips[1].file: one}).most_weight is None


def test_clips_that_are_damaged_all_along_are_not_judged():
    found = judge([clip_of("a", "gaussian_blur", 3, LABELS)], {"a": [4.0, 1.0, 2.0, 3.0]})
    assert (found.clips, found.lower, found.srcc) == (0, None, None)
