"""Distortions: the effect of each on a clip, in numbers; ladders in order, nested and the same every time."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from diffvqa_rt.synthetic.clip_files import read_clip, write_clip
from diffvqa_rt.synthetic.distortions import EFFECTS, LADDERS, SEVERITIES, STILL_LADDERS, Ladder, Step, distort

# Parameters that fall as the fault grows.
FALLING = {"photons", "levels", "quality"}
ALL_LADDERS = LADDERS | STILL_LADDERS
TEMPORAL = ("frame_drops", "freeze", "judder")
PARTS = ("part_blur", "part_noise", "part_h264")


def texture(frames: int = 12, height: int = 64, width: int = 96) -> np.ndarray:
    """A moving picture with detail, away from black and white."""
    y, x = np.mgrid[:height, :width]
    moved = [np.stack([x + 2 * t, y - t, x + y + t], -1) for t in range(frames)]
    return np.stack([128 + 60 * np.sin(at / 5) + 30 * np.sign(np.sin(at / 1.3)) for at in moved]).astype(np.uint8)


def numbered(frames: int = 48) -> np.ndarray:
    """Frame i is of level i."""
    return np.repeat(np.arange(frames, dtype=np.uint8), 8 * 8 * 3).reshape(frames, 8, 8, 3)


def flat(level: int, frames: int = 4) -> np.ndarray:
    return np.full((frames, 64, 96, 3), level, np.uint8)


def apply(effect: str, clip: np.ndarray, value: float, seed: int = 0):
    return EFFECTS[effect](clip, value, np.random.default_rng(seed))


@pytest.mark.parametrize("name", ALL_LADDERS)
def test_a_ladder_is_the_same_every_time_and_another_for_another_scene(name):
    clip = texture()
    once, again, other = (distort(clip, ALL_LADDERS[name], 3, key) for key in ("0/a", "0/a", "0/b"))
    assert np.array_equal(once.frames, again.frames) and once.steps == again.steps
    assert once.steps != other.steps
    assert clip.dtype == once.frames.dtype == np.uint8 and once.frames.shape == clip.shape
    assert np.array_equal(clip, texture())


@pytest.mark.parametrize("name", ALL_LADDERS)
@pytest.mark.parametrize("key", ["0/a", "0/b", "7/c"])
def test_every_step_of_a_ladder_grows_with_severity_and_records_its_parameter(name, key):
    ladder = ALL_LADDERS[name]
    rungs = [distort(texture(4), ladder, severity, key).steps for severity in SEVERITIES]
    for index, step in enumerate(ladder.steps):
        values = [rung[index][step.parameter] for rung in rungs]
        assert [rung[index]["effect"] for rung in rungs] == [step.effect] * 5
        assert (np.diff(values) * (-1 if step.parameter in FALLING else 1) > 0).all(), values
        assert min(step.knots) <= min(values) <= max(values) <= max(step.knots)
        # What was drawn beside it does not change with severity.
        drawn = [{k: v for k, v in rung[index].items() if k not in (step.parameter, "shown_frames")} for rung in rungs]
        assert all(one == drawn[0] for one in drawn)


# Not scaling: what its grid hits of a regular texture depends on the factor.
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in ALL_LADDERS
        if name not in TEMPORAL and ALL_LADDERS[name].steps[0].effect in EFFECTS.keys() - {"scaling"}
    ],
)
def test_the_error_grows_with_severity(name):
    clip = texture()
    errors = [np.abs(distort(clip, ALL_LADDERS[name], s, "0/a").frames.astype(float) - clip).mean() for s in SEVERITIES]
    assert (np.diff([0, *errors]) > 0).all(), errors


@pytest.mark.parametrize("name", TEMPORAL)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_temporal_fault_shows_the_frames_that_it_says(name, severity):
    distorted = distort(numbered(), ALL_LADDERS[name], severity, "0/a")
    shown = distorted.frames[:, 0, 0, 0].tolist()
    assert shown == distorted.steps[0]["shown_frames"] and len(shown) == 48
    # Time goes on: nothing is shown before it was filmed, or after something later.
    assert shown[0] == 0 and all(frame <= at for at, frame in enumerate(shown)) and shown == sorted(shown)
    assert shown != list(range(48))


def test_frame_drops_lose_their_share_in_runs_and_a_higher_severity_loses_the_same_and_more():
    lost = []
    for severity in SEVERITIES:
        step = distort(numbered(), LADDERS["frame_drops"], severity, "0/a").steps[0]
        lost.append({at for at, frame in enumerate(step["shown_frames"]) if frame != at})
        assert len(lost[-1]) == round(step["share"] * 47)
        # Of 4 from the second frame on, or the 3 that are left at the end; one may be lost in part.
        runs = [set(range(first, min(first + 4, 48))) for first in range(1, 48, 4)]
        assert sum(bool(run & lost[-1]) and not run <= lost[-1] for run in runs) <= 1
    assert all(low < high for low, high in itertools.pairwise(lost))


@pytest.mark.parametrize("name", TEMPORAL)
def test_temporal_faults_are_long_enough_for_the_sampled_frames_to_show_them(name):
    sampled = np.arange(1, 24, 3)
    for key in range(20):
        for severity in SEVERITIES:
            (step,) = distort(numbered(24), LADDERS[name], severity, f"0/{key}").steps
            assert (np.array(step["shown_frames"])[sampled] != sampled).any(), (key, severity)


@pytest.mark.parametrize("name", PARTS)
def test_a_ladder_of_a_part_damages_a_third_of_the_length_and_leaves_the_rest_alone(name):
    clip, places = texture(), set()
    for key in ("0/a", "0/b", "0/c"):
        rungs = [distort(clip, LADDERS[name], severity, key) for severity in (1, 5)]
        (first, last), again = (rung.steps[-1]["frames"] for rung in rungs)
        assert last - first == 4 and again == [first, last]
        for rung in rungs:
            # A codec's too is over by then: all is stored alike.
            assert rung.codec is None and rung.steps[-1]["effect"] == "part"
            is_changed = (rung.frames != clip).any(axis=(1, 2, 3))
            assert is_changed.tolist() == [first <= at < last for at in range(12)]
        places.add(first)
    assert len(places) > 1


@pytest.mark.parametrize("name", ["upload_h264", "upload_av1"])
def test_what_was_uploaded_had_been_compressed_already(name, tmp_path):
    distorted = distort(texture(), LADDERS[name], 3, "0/a")
    upload, transcode = distorted.steps
    write_clip(tmp_path / "upload.mp4", texture(), Fraction(24), codec="h264", crf=upload["crf"])
    assert np.array_equal(distorted.frames, read_clip(tmp_path / "upload.mp4"))
    assert (distorted.codec, distorted.crf) == (transcode["effect"], transcode["crf"])
    assert distorted.codec == name.removeprefix("upload_")


def test_a_freeze_is_one_stretch_and_the_present_goes_on_after_it():
    for severity in SEVERITIES:
        step = distort(numbered(), LADDERS["freeze"], severity, "0/a").steps[0]
        shown = np.array(step["shown_frames"])
        (frozen,) = np.nonzero(shown != np.arange(48))
        assert len(frozen) == round(step["share"] * 48) and (np.diff(frozen) == 1).all()
        assert len(set(shown[frozen])) == 1 and shown[frozen[0]] == frozen[0] - 1
        assert frozen[-1] < 47 and shown[-1] == 47


def test_judder_holds_each_frame_for_as_long_as_it_says():
    shown = apply("judder", numbered(), 2.5)[1]["shown_frames"]
    # As film at 24 Hz on a 60 Hz screen: three and two in turn.
    assert shown[:10] == [0, 0, 0, 3, 3, 5, 5, 5, 8, 8]
    assert apply("judder", numbered(), 4.0)[1]["shown_frames"] == [at // 4 * 4 for at in range(48)]


@pytest.mark.parametrize(("level", "stops"), [(230, 1.0), (230, 3.0), (120, 2.0)])
def test_low_light_is_as_dark_as_so_many_stops_and_noisier_the_darker(level, stops):
    dark = apply("low_light", flat(level), stops)[0].astype(float)
    # Gamma of 2.2: halving the light takes a level to 0.73 of itself.
    assert abs(dark.mean() / (level * 2 ** (-stops / 2.2)) - 1) < 0.02
    # Shot noise is a share of the light that grows as its root falls.
    assert dark.std() / dark.mean() > 0.95 * 2 ** (stops / 4) * flat_noise(level, stops / 2)


def flat_noise(level: int, stops: float) -> float:
    dark = apply("low_light", flat(level), stops)[0].astype(float)
    return float(dark.std() / dark.mean())


@pytest.mark.parametrize("levels", [40, 7, 2])
def test_banding_leaves_so_many_levels_evenly_spread(levels):
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, None, :, None], (2, 16, 256, 3))
    banded = apply("banding", np.ascontiguousarray(ramp), float(levels))[0]
    values = np.unique(banded)
    assert len(values) == levels and values[0] == 0 and values[-1] == 255
    assert np.ptp(np.diff(values.astype(int))) <= 1
    assert np.abs(banded.astype(float) - ramp).max() <= 255 / (levels - 1) / 2 + 1


def test_gaussian_noise_has_its_deviation_everywhere_and_differs_from_frame_to_frame():
    for level in (80, 160):
        noisy = apply("gaussian_noise", flat(level), 10.0)[0].astype(float)
        assert abs(noisy.std() - 10) < 0.2 and abs(noisy.mean() - level) < 0.2
        assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.02
        assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 0.02


def test_shot_noise_grows_with_the_root_of_the_light():
    light = {}
    for level in (60, 200):
        noisy = apply("shot_noise", flat(level), 400.0)[0].astype(float)
        light[level] = ((noisy / 255) ** 2.2).std()
        assert abs(light[level] / np.sqrt((level / 255) ** 2.2 / 400) - 1) < 0.05
    assert light[200] > 3 * light[60]


def test_motion_blur_spreads_an_edge_along_a_line_of_its_length():
    for axis in (1, 2):
        # A line of length 12 at an angle: an edge across x is spread by what of it lies along x.
        clip = np.zeros((1, 64, 96, 3), np.uint8)
        np.moveaxis(clip, axis, 1)[:, 32:] = 255
        blurred, drawn = apply("motion_blur", clip, 12.0)
        edge = np.diff(np.moveaxis(blurred, axis, 1)[0, :, 30, 0].astype(float))[8:-8]
        at = np.arange(len(edge))
        spread = (edge * (at - (edge * at).sum() / edge.sum()) ** 2).sum() / edge.sum()
        angle = np.deg2rad(drawn["angle_degrees"])
        # A uniform line of length L has a variance of L²/12.
        reach = 12 * (np.sin(angle) if axis == 1 else np.cos(angle))
        assert abs(edge.sum() - 255) < 3 and abs(spread - reach**2 / 12) < 1


def test_gaussian_blur_has_its_deviation():
    clip = np.zeros((1, 64, 96, 3), np.uint8)
    clip[:, :, 48:] = 255
    edge = np.diff(apply("gaussian_blur", clip, 3.0)[0][0, 32, :, 0].astype(float))
    x = np.arange(len(edge)) + 0.5
    assert abs(np.sqrt((edge * (x - 47.5) ** 2).sum() / edge.sum()) - 3) < 0.3


def test_scaling_takes_away_what_is_finer_than_its_grid_and_no_more():
    x = np.arange(96)
    for period, least, most in [(4, 0, 0.1), (48, 0.9, 1.1)]:
        row = (128 + 100 * np.sin(2 * np.pi * x / period)).astype(np.uint8)
        clip = np.broadcast_to(row[None, None, :, None], (1, 64, 96, 3))
        kept = apply("scaling", np.ascontiguousarray(clip), 4.0)[0][:, :, 12:-12].std() / clip[:, :, 12:-12].std()
        assert least <= kept <= most, period


def test_sharpening_overshoots_at_edges_and_leaves_flat_parts():
    clip = np.full((1, 64, 96, 3), 100, np.uint8)
    clip[:, :, 48:] = 150
    sharp = apply("sharpening", clip, 2.0)[0][0, 32, :, 0]
    assert sharp.max() > 165 and sharp.min() < 85 and sharp[10] == 100 and sharp[-10] == 150


def test_a_ladder_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="effect is 'fog'; expected one of scaling"):
        Step(effect="fog", parameter="x", knots=(1, 2, 3, 4, 5, 6))
    with pytest.raises(ValueError, match="scaling has 2 knots; expected 6"):
        Step(effect="scaling", parameter="factor", knots=(1, 2))
    codec, blur = LADDERS["h264"].steps[0], LADDERS["gaussian_blur"].steps[0]
    with pytest.raises(ValueError, match="odd has a step after its codec"):
        Ladder(name="odd", label="vmaf_v1", steps=(codec, blur))
    with pytest.raises(ValueError, match="severity is 6; expected one of 1, 2, 3, 4, 5"):
        distort(texture(), LADDERS["h264"], 6, "0/a")


def test_every_distortion_of_the_catalogue_is_there():
    kinds = {step.effect for ladder in ALL_LADDERS.values() for step in ladder.steps}
    assert kinds == {"h264", "h265", "av1", "vp9", *EFFECTS}
    assert sum(len(ladder.steps) > 1 for ladder in LADDERS.values()) >= 4
    assert {name for name, ladder in LADDERS.items() if ladder.needs_motion} == set(TEMPORAL)
    by_order = {name for name, ladder in LADDERS.items() if ladder.label == "order"}
    assert by_order == {*TEMPORAL, "low_light", "low_light_h264"}
    assert {name for name, ladder in LADDERS.items() if ladder.share < 1} == set(PARTS)
    # A still has no codec, and no time.
    assert set(STILL_LADDERS) - set(LADDERS) == {"jpeg"} and not {*TEMPORAL, *PARTS} & set(STILL_LADDERS)
