"""Calibration: by least squares, on the opinions' scale, with a prompt and without."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from prompted_network import SMALL

from diffvqa_rt.metrics.aigc_vqa.config import Calibration
from diffvqa_rt.metrics.aigc_vqa.fusion import fuse
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.training.aigc_vqa.calibration import (
    agreement_lines,
    fit_calibration,
    main_score,
    on_opinions_scale,
)

VIDEOS = 20


@pytest.fixture
def numbers():
    generator = np.random.default_rng(0)
    names = ("technical", "aesthetic", "alignment")
    return {name: generator.normal(shift, 1.0, VIDEOS) for shift, name in enumerate(names)}


@pytest.fixture
def opinions(numbers):
    return 40 + 6 * sum(numbers.values()) + np.random.default_rng(1).normal(0, 3, VIDEOS)


def scores(calibration, numbers, names):
    """As the metric fuses them, video by video."""
    config = dataclasses.replace(SMALL, calibration=calibration)
    shape = (1, config.temporal_tokens, config.map_side, config.map_side)
    found = []
    for video in range(VIDEOS):
        outputs = {f"{name}_map": np.full(shape, numbers[name][video]) for name in ("technical", "aesthetic")}
        if "alignment" in names:
            outputs["alignment_score"] = numbers["alignment"][video : video + 1]
        found.append(fuse(config, outputs)["score"][0])
    return np.array(found)


@pytest.mark.parametrize("names", [("technical", "aesthetic", "alignment"), ("technical", "aesthetic")])
def test_scores_are_the_regression_of_the_opinions_on_the_sum(numbers, opinions, names):
    calibration = fit_calibration(numbers, opinions, Calibration())
    total = sum(numbers[name] for name in names)
    expected = np.polyval(np.polyfit(total, opinions, 1), total)
    np.testing.assert_allclose(scores(calibration, numbers, names), expected)
    assert scores(calibration, numbers, names).mean() == pytest.approx(opinions.mean())


def test_without_alignment_what_is_for_prompts_stays(numbers, opinions):
    start = Calibration(base=1.0, scale=2.0, alignment=3.0)
    visual = {name: numbers[name] for name in ("technical", "aesthetic")}
    fitted = fit_calibration(visual, opinions, start)
    assert (fitted.base, fitted.scale, fitted.alignment) == (1.0, 2.0, 3.0)
    whole = fit_calibration(numbers, opinions, start)
    assert fitted == dataclasses.replace(whole, base=1.0, scale=2.0, alignment=3.0)


def test_branches_that_say_one_number_get_no_scale(opinions):
    constant = {name: np.ones(VIDEOS) for name in ("technical", "aesthetic", "alignment")}
    fitted = fit_calibration(constant, opinions, Calibration())
    assert (fitted.scale, fitted.scale_visual, fitted.base) == (0.0, 0.0, pytest.approx(opinions.mean()))


def test_other_videos_come_to_the_same_scale(numbers, opinions):
    """What is written for held-out videos is what the weights' own calibration gives them."""
    others = {name: values[::-1] + 0.5 for name, values in numbers.items()}
    calibration = fit_calibration(numbers, opinions, Calibration())
    np.testing.assert_allclose(on_opinions_scale(others, numbers, opinions), scores(calibration, others, others))


def labelled(opinions):
    return [LabelledVideo(name=str(n), path=Path(str(n)), label=float(y)) for n, y in enumerate(opinions)]


def test_the_main_score_is_the_mean_of_both_correlations():
    videos = labelled([1.0, 2.0, 3.0, 4.0])
    found = main_score(np.array([1.0, 3.0, 2.0, 8.0]), videos)
    assert found["main"] == pytest.approx((found["srcc"] + found["plcc"]) / 2) and found["srcc"] == pytest.approx(0.8)
    assert main_score(np.array([1.0, 2.0]), videos[:2]) == {}


def test_agreement_is_said_by_branch_and_for_their_sum(numbers, opinions):
    lines = agreement_lines(numbers, labelled(opinions))
    assert [line.split(":")[0] for line in lines] == ["technical", "aesthetic", "alignment", "sum"]
    assert lines[-1].startswith("sum: srcc 0.9") and ", main 0.9" in lines[-1]
    assert len(agreement_lines({"alignment": numbers["alignment"]}, labelled(opinions))) == 1
    assert agreement_lines({"alignment": numbers["alignment"][:2]}, labelled(opinions[:2])) == []
