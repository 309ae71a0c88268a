"""Encodes of one source: intervals over crops, and Bjøntegaard's delta rate."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate
import scipy.stats

from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.evaluation.encodes import Encode, bd_rate, difference_of, pairs_of_ranked, ranked

PLACES = ((0, 0, 192, 192), (40, 8, 232, 200), (90, 30, 282, 222))


def encode(scores, name="a.mp4", regions=PLACES, size=(720, 480)):
    return Encode(source=name, crop_scores=tuple(scores), crop_regions=tuple(regions), size=size)


def test_an_interval_is_students_over_crops():
    one = encode([50.0, 52.0, 57.0])
    low, high = scipy.stats.t.interval(0.95, 2, loc=53.0, scale=scipy.stats.sem([50.0, 52.0, 57.0]))
    assert (one.score - one.margin, one.score + one.margin) == pytest.approx((low, high))


def test_crops_of_the_same_places_are_compared_one_by_one():
    # The places differ by 20 points, the encodes by 1 ± 0.1 at each: only pairs show that.
    a, b = encode([41.0, 51.1, 60.9]), encode([40.0, 50.0, 60.0])
    paired = difference_of(a, b)
    expected = scipy.stats.ttest_rel(a.crop_scores, b.crop_scores).confidence_interval(0.95)
    assert paired.is_paired and not paired.is_within_interval
    assert (paired.difference - paired.margin, paired.difference + paired.margin) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("other", [{"regions": PLACES[::-1]}, {"size": (1280, 720)}], ids=["places", "size"])
def test_crops_of_other_places_are_two_samples(other):
    a, b = encode([41.0, 51.1, 60.9]), encode([40.0, 50.0, 60.0], **other)
    apart = difference_of(a, b)
    expected = scipy.stats.ttest_ind(a.crop_scores, b.crop_scores, equal_var=False).confidence_interval(0.95)
    assert not apart.is_paired and apart.is_within_interval
    assert (apart.difference - apart.margin, apart.difference + apart.margin) == pytest.approx(tuple(expected))


def test_equal_crops_are_no_difference():
    same = difference_of(encode([7.0, 7.0, 7.0]), encode([7.0, 7.0, 7.0], regions=PLACES[::-1]))
    assert (same.difference, same.margin, same.is_within_interval) == (0.0, 0.0, True)


def test_paired_intervals_cover_the_true_difference_as_often_as_they_say():
    generator = np.random.default_rng(0)
    places = generator.normal(50, 10, (2000, 3))
    draws = zip(places + 1 + generator.normal(0, 2, (2000, 3)), places + generator.normal(0, 2, (2000, 3)), strict=True)
    covered = [abs((apart := difference_of(encode(a), encode(b))).difference - 1) <= apart.margin for a, b in draws]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)  # three standard errors


def test_each_two_are_compared_the_better_one_first():
    a, b, c = (encode([score] * 3, name) for score, name in ((10.0, "a"), (30.0, "b"), (20.0, "c")))
    assert [one.source for one in ranked([a, b, c])] == ["b", "c", "a"]
    pairs = [(better.source, worse.source) for better, worse, _ in pairs_of_ranked([a, b, c])]
    assert pairs == [("b", "c"), ("b", "a"), ("c", "a")]


def test_half_the_rate_for_each_score_is_a_bd_rate_of_minus_50_percent():
    anchor = [(1000.0, 40.0), (2000.0, 55.0), (4000.0, 64.0), (8000.0, 70.0)]
    half = bd_rate(anchor, [(rate / 2, score) for rate, score in anchor])
    assert half.percent == pytest.approx(-50) and (half.low, half.high) == (40.0, 70.0)


def test_bd_rate_is_the_mean_distance_of_the_curves_where_both_reach():
    # By hand: two points are a line, ln R = ln 1000 + s ln(4)/20. Ten points to the right, ln R is ln 2 lower.
    anchor, group = [(1000.0, 0.0), (4000.0, 20.0)], [(1000.0, 10.0), (4000.0, 30.0)]
    shifted = bd_rate(anchor, group)
    assert shifted.percent == pytest.approx(-50) and (shifted.low, shifted.high) == (10.0, 20.0)
    # From equal rates at score 0 to twice the anchor's at 10: ln 2 / 2 in the mean, which is √2 − 1.
    steeper = bd_rate([(1000.0, 0.0), (2000.0, 10.0)], [(1000.0, 0.0), (4000.0, 10.0)])
    assert steeper.percent == pytest.approx(100 * (math.sqrt(2) - 1))


def test_bd_rate_is_integrated_over_the_cubic_between_the_points():
    anchor = [(1000.0, 30.0), (1500.0, 50.0), (3500.0, 62.0), (9000.0, 66.0)]
    group = [(900.0, 33.0), (1400.0, 48.0), (3000.0, 63.0), (8000.0, 68.0)]
    scores = np.linspace(33, 66, 100_001)
    curves = []
    for points in (anchor, group):
        rates, at = np.array(points).T
        curves.append(scipy.interpolate.pchip_interpolate(at, np.log(rates), scores))
    expected = 100 * math.expm1(scipy.integrate.trapezoid(curves[1] - curves[0], scores) / 33)
    assert bd_rate(anchor, group).percent == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ([(500.0, 50.0)], "a curve of 1 is too short; give at least 2 encodes"),
        ([(500.0, 50.0), (900.0, 49.0)], "from 500 to 900 kbit/s the score goes from 50.000 to 49.000"),
        ([(500.0, 50.0), (500.0, 51.0)], "it must grow with the bit rate"),
        ([(500.0, 10.0), (900.0, 20.0)], "the scores do not overlap \\(30.000 to 60.000 and 10.000 to 20.000\\)"),
    ],
)
def test_curves_that_have_no_bd_rate_are_refused(group, sentence):
    with pytest.raises(EvaluationError, match=sentence):
        bd_rate([(1000.0, 30.0), (2000.0, 60.0)], group)
