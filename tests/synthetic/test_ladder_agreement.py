"""Scores judged on a synthetic set, and the changes that the ablations make."""

import dataclasses
import functools

import pytest
import torch
from ablation import LINES
from synthetic_clips import clip_of
from training_network import SMALLEST

from diffvqa_rt.evaluation.correlation import measure_agreement
from diffvqa_rt.models.diffvqa.diffusion import DenoisingStep, reconstruct
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.synthetic.agreement import ladders
from diffvqa_rt.synthetic.agreement.ladders import agreement_by_size, agreement_by_type, agreement_markdown
from diffvqa_rt.synthetic.labelled import LabelledVideo, some_ladders

SEVERITIES = range(1, 6)


def clip(scene, distortion, severity, label=50.0):
    return clip_of(scene, distortion, severity, [label], file=f"{scene}/{distortion}-{severity}")


@pytest.fixture
def clips():
    """Two scenes with an H.264 ladder each, one of them also with frozen frames, of which only the order counts."""
    made = [clip(scene, "reference", 0, label=99.0) for scene in "ab"]
    made += [clip(scene, "h264", severity, label=95.0 - 15 * severity) for scene in "ab" for severity in SEVERITIES]
    return made + [clip("a", "freeze", severity) for severity in SEVERITIES]


def follows(clips):
    return {clip.file: 100.0 - 18 * clip.severity for clip in clips}


def row(rows, name):
    (found,) = [row for row in rows if row.name == name]
    return found


def test_scores_that_follow_the_labels_are_in_full_agreement(clips):
    rows = agreement_by_type(clips, follows(clips))
    assert [row.name for row in rows] == ["h264", "freeze", "codecs and scalings", "all"]
    h264 = row(rows, "h264")
    assert (h264.clips, h264.ladders) == (10, 2)
    assert h264.srcc == pytest.approx(1) and h264.plcc == pytest.approx(1)
    assert all(row.falling == row.falling_pairs == 1 for row in rows)
    freeze = row(rows, "freeze")
    assert (freeze.clips, freeze.ladders, freeze.srcc) == (5, 1, None)
    assert row(rows, "all").clips == 15 and row(rows, "codecs and scalings").clips == 10


def test_a_ladder_that_rises_once_does_not_fall_and_costs_one_pair(clips):
    scores = follows(clips)
    scores["a/h264-3"], scores["a/h264-4"] = scores["a/h264-4"], scores["a/h264-3"]
    rows = agreement_by_type(clips, scores)
    assert row(rows, "h264").falling == 0.5 and row(rows, "h264").falling_pairs == pytest.approx(29 / 30)
    assert row(rows, "h264").srcc < 1 and row(rows, "freeze").falling == 1


def test_equal_scores_do_not_fall(clips):
    rows = agreement_by_type(clips, dict.fromkeys(follows(clips), 50.0) | {"a/h264-1": 51.0})
    assert row(rows, "h264").falling == 0


def test_a_pristine_clip_that_scores_below_its_copies_costs_pairs_and_not_the_ladder(clips):
    rows = agreement_by_type(clips, follows(clips) | {"a/reference-0": 0.0})
    assert row(rows, "freeze").falling == 1 and row(rows, "freeze").falling_pairs == pytest.approx(10 / 15)


def test_the_table_has_a_line_for_each(clips):
    lines = agreement_markdown(agreement_by_type(clips, follows(clips))).splitlines()
    assert lines[2] == "| h264 | vmaf_v1 | 10 | 2 | 1.000 |  | 1.000 | 100% | 100.0% |"
    assert lines[3] == "| freeze | order | 5 | 1 |  |  |  | 100% | 100.0% |" and len(lines) == 6


def test_the_interval_is_over_contents(monkeypatch):
    """Three of the contents are scored too high: within each all is in order, and copies of a content add nothing."""
    few = functools.partial(measure_agreement, resamples=100)
    monkeypatch.setattr(ladders, "measure_agreement", few)
    scenes = "abcdefghijkl"
    clips = [clip(scene, "reference", 0, label=99.0) for scene in scenes]
    clips += [clip(scene, "h264", severity, label=95.0 - 15 * severity) for scene in scenes for severity in SEVERITIES]
    scores = {made.file: (made.label or 0) + 40 * (made.content < "d") for made in clips}
    h264 = row(agreement_by_type(clips, scores), "h264")
    low, high = h264.srcc_interval
    assert low < h264.srcc < high and h264.falling == 1
    twice = [dataclasses.replace(made, file=f"{made.file}-again", scene=f"{made.scene}-again") for made in clips]
    again = scores | {f"{file}-again": score for file, score in scores.items()}
    assert row(agreement_by_type([*clips, *twice], again), "h264").srcc_interval == pytest.approx((low, high))


def test_sizes_are_judged_apart_by_their_shorter_side(clips):
    sizes = {"a": (1280, 720), "b": (720, 1280), "c": (640, 360)}
    clips = [
        *clips,
        clip("c", "reference", 0),
        *(clip("c", "h264", severity, 95.0 - severity) for severity in SEVERITIES),
    ]
    clips = [dataclasses.replace(c, width=sizes[c.scene][0], height=sizes[c.scene][1]) for c in clips]
    rows = agreement_by_size(clips, follows(clips))
    # Of codecs and scalings: the freeze is left out.
    assert [(found.name, found.clips, found.ladders) for found in rows] == [
        ("of 360 lines", 5, 1), ("of 720 lines", 10, 2),
    ]  # fmt: skip


def test_some_ladders_are_whole_ladders_of_every_scene():
    videos = [
        LabelledVideo(name="", path=None, label=None, ladder=f"{scene}/{kind}", severity=severity)
        for scene in ("one", "two")
        for kind in ("h264", "vp9", "freeze", "blur")
        for severity in range(6)
    ]
    kept = some_ladders(videos, 2)
    ladders = {video.ladder for video in kept}
    assert len(kept) == 24 and sorted(name.split("/")[0] for name in ladders) == ["one", "one", "two", "two"]
    assert some_ladders(videos[::-1], 2) == kept[::-1]
    assert {name.split("/")[1] for name in ladders} != {"h264", "vp9"}


@torch.no_grad()
def test_each_ablation_changes_what_its_name_says():
    def changed(name):
        change, describe = LINES[name]
        network = change(random_network(SMALLEST))
        return network, describe(network.config)

    z0 = torch.randn(1, 2, *SMALLEST.latent_shape)
    whole, _ = changed("K=10")
    without, _ = changed("no Controller")
    step = DenoisingStep(without.extractor)
    for block in step.controller.controlnet_down_blocks:
        assert not block.weight.any() and not block.bias.any()
    assert not torch.equal(reconstruct(step, z0, 2)[0], reconstruct(DenoisingStep(whole.extractor), z0, 2)[0])
    assert changed("no TCAB")[1].head.tcab.views == "none"
    for steps in (4, 2, 1):
        network, config = changed(f"K={steps}")
        assert config.sampler.steps == steps
        assert torch.equal(network.extractor.unet.conv_in.weight, whole.extractor.unet.conv_in.weight)
