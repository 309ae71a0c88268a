"""Encodes of one source against each other: intervals over crops, and Bjøntegaard's delta of the bit rate.

The intervals are of the mean over crop positions: they say what other positions would have given, and nothing of other
sources or of viewers.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.interpolate
import scipy.stats
from numpy.typing import NDArray

from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.video.crops import Region

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Encode:
    """An encode as it was scored.

    Attributes:
        source: the name it was given by.
        crop_scores: of each crop position, two at least.
        crop_regions: where the crops are, in the encode's pixels.
        size: width and height of the encode's pictures, in pixels.
        bit_rate_kbps: None where it is not known.
        group: the name of its group; None without groups.
    """

    source: str
    crop_scores: tuple[float, ...]
    crop_regions: tuple[Region, ...]
    size: tuple[int, int]
    bit_rate_kbps: float | None = None
    group: str | None = None

    @property
    def score(self) -> float:
        return float(np.mean(self.crop_scores))

    @property
    def margin(self) -> float:
        """Half of the interval around the score: Student's t times the standard error over crops."""
        return _margin(_variance(np.array(self.crop_scores)), len(self.crop_scores) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The score of an encode less that of another, ± `margin`; `is_paired` where their crops show the same places."""

    difference: float
    margin: float
    is_paired: bool

    @property
    def is_within_interval(self) -> bool:
        """True where crops at other positions may well turn the two around."""
        return abs(self.difference) <= self.margin


@dataclass(frozen=True, kw_only=True, slots=True)
class BdRate:
    """The bit rate that one group needs beside another for the same score.

    Attributes:
        percent: the mean difference of the rates in percent of the anchor's; below 0 the group needs less.
        low, high: the ends of the scores that both groups reach, over which the mean is.
    """

    percent: float
    low: float
    high: float


def difference_of(a: Encode, b: Encode) -> Difference:
    """The score of `a` less that of `b`, with its interval.

    Crops of the same places are compared one by one (Student's paired t), which leaves out what the places differ in;
    others as two samples of unequal variance (Welch's t).
    """
    first, second = np.array(a.crop_scores), np.array(b.crop_scores)
    is_paired = (a.size, a.crop_regions) == (b.size, b.crop_regions) and len(first) == len(second)
    if is_paired:
        variance, freedom = _variance(first - second), len(first) - 1.0
    else:
        shares = [_variance(scores) for scores in (first, second)]
        variance = sum(shares)
        weights = sum(share**2 / (len(scores) - 1) for share, scores in zip(shares, (first, second), strict=True))
        freedom = variance**2 / weights if weights else math.inf
    return Difference(difference=a.score - b.score, margin=_margin(variance, freedom), is_paired=is_paired)


def ranked(encodes: Sequence[Encode]) -> list[Encode]:
    """The encodes from the best score to the worst; equal ones stay in their order."""
    return sorted(encodes, key=lambda encode: -encode.score)


def pairs_of_ranked(encodes: Sequence[Encode]) -> list[tuple[Encode, Encode, Difference]]:
    """Each two of the encodes, the better one first, and how far apart they are."""
    return [(a, b, difference_of(a, b)) for a, b in itertools.combinations(ranked(encodes), 2)]


def bd_rate(anchor: Sequence[tuple[float, float]], group: Sequence[tuple[float, float]]) -> BdRate:
    """Bjøntegaard's delta rate of a group against an anchor, from pairs (bit rate, score).

    The mean distance of log(rate) over the scores that both reach, as a ratio, less one (ITU-T VCEG-M33). Between its
    points each curve is the monotone piecewise cubic of `scipy.interpolate.PchipInterpolator`, which does not overshoot
    where scores are noisy. Akima's, the other usual one (arXiv:2304.12852), may.

    Raises:
        EvaluationError: a curve has fewer than two points, its score does not grow with the bit rate, or no score is
            reached by both.
    """
    curves = [_rate_of_score(points) for points in (anchor, group)]
    low, high = max(float(curve.x[0]) for curve in curves), min(float(curve.x[-1]) for curve in curves)
    if low >= high:
        spans = " and ".join(f"{curve.x[0]:.3f} to {curve.x[-1]:.3f}" for curve in curves)
        raise EvaluationError(f"no BD-rate: the scores do not overlap ({spans}); add encodes between them")
    of_anchor, of_group = (float(curve.integrate(low, high)) / (high - low) for curve in curves)
    return BdRate(percent=100 * math.expm1(of_group - of_anchor), low=low, high=high)


def _rate_of_score(points: Sequence[tuple[float, float]]) -> scipy.interpolate.PchipInterpolator:
    """log(bit rate) as a function of the score."""
    if len(points) < 2:
        raise EvaluationError(
            f"no BD-rate: a curve of {len(points)} is too short; give at least 2 encodes, better 4 or more"
        )
    rates, scores = np.array(sorted(points)).T
    for index in np.flatnonzero((np.diff(scores) <= 0) | (np.diff(rates) <= 0))[:1]:
        raise EvaluationError(
            f"no BD-rate: from {rates[index]:g} to {rates[index + 1]:g} kbit/s the score goes from {scores[index]:.3f} "
            f"to {scores[index + 1]:.3f}, and it must grow with the bit rate; leave one out, or use more crops"
        )
    return scipy.interpolate.PchipInterpolator(scores, np.log(rates))


def _variance(scores: NDArray[np.float64]) -> float:
    """The variance of the mean of independent scores."""
    return float(np.var(scores, ddof=1) / len(scores))


def _margin(variance: float, freedom: float) -> float:
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variance))
