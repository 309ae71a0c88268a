"""The agreement of scores with opinions: SRCC, PLCC, KRCC, RMSE and the main score, with intervals.

The coefficients are SciPy's. The fit is the 4-parameter logistic of VQEG's reports (Final report on the validation of
objective models of video quality assessment, 2000; in the form of Seshadrinathan et al., TIP 2010):

    f(x) = β2 + (β1 − β2) / (1 + exp(−(x − β3) / |β4|))
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from diffvqa_rt.errors import EvaluationError

MetricName = Literal["srcc", "plcc", "plcc_fitted", "krcc", "rmse", "rmse_matched", "main"]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
"""`plcc` is of the raw scores; `plcc_fitted` and `rmse` are after the fit. `rmse_matched` is of scores that
have the mean and the standard deviation of the MOS (SPEC-aigc-vqa, 9). Both errors are in units of the MOS. `main` is
the mean of `srcc` and `plcc`."""

MIN_VIDEOS = 10
"""A curve of four parameters through fewer says nothing, nor does an interval."""

_Floats = NDArray[np.float64]

LEAST_WIDTH = 1e-6
"""The least |β4|, in standard deviations of the scores: a narrower logistic is a step all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpinionCurve:
    """A curve from scores to MOS.

    Attributes:
        kind: `logistic`, or `line` where the logistic did not converge.
        parameters: β1 … β4, or the line's slope and intercept.
    """

    kind: Literal["logistic", "line"]
    parameters: tuple[float, ...]

    def __call__(self, scores: _Floats) -> _Floats:
        if self.kind == "line":
            slope, intercept = self.parameters
            return slope * scores + intercept
        return _logistic(scores, np.array(self.parameters))

    @property
    def is_falling(self) -> bool:
        """True where high scores go with low opinions."""
        return self.parameters[0] < (0 if self.kind == "line" else self.parameters[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A metric and its bootstrap 95 % interval; the ends are NaN where none was asked for or can be had."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """The agreement of scores with opinions of the same videos.

    Attributes:
        videos: how many there are.
        metrics: by name, `METRICS`; NaN where a metric is not defined, and a note says why.
        curve: the fit that `plcc_fitted` and `rmse` use; None where the scores are constant.
        notes: sentences that belong beside the numbers.
    """

    videos: int
    metrics: dict[MetricName, Estimate]
    curve: OpinionCurve | None
    notes: tuple[str, ...]


def measure_agreement(
    scores: ArrayLike,
    mos: ArrayLike,
    *,
    contents: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """All metrics of scores [n] against opinions [n], with intervals.

    The intervals are bootstrap percentiles (2.5 and 97.5) over resampled videos, with the curve fitted anew in each.
    Percentiles, since BCa's acceleration takes one more fit for each video (thousands, for LSVQ) and gains nothing at
    hundreds of videos: `tests/evaluation/test_correlation.py` measures the coverage.

    Args:
        scores: predictions, finite, on any scale; higher is better.
        mos: mean opinion scores, finite.
        contents: what each video shows; videos of one content are resampled together. By default each is its own.
        resamples: how many for the intervals; 0 for none.
        seed: of the resampling.

    Raises:
        ValueError: arrays of other shapes, of unequal lengths, or with values that are not finite.
        EvaluationError: fewer than `MIN_VIDEOS` videos.
    """
    x, y = _check("scores", scores), _check("mos", mos)
    if x.shape != y.shape:
        raise ValueError(f"scores has {len(x)} values, and mos {len(y)}; expected one of each for a video")
    if len(x) < MIN_VIDEOS:
        raise EvaluationError(f"{len(x)} scores are too few to evaluate; expected at least {MIN_VIDEOS}")
    for what, constant in (("scores", x), ("opinions", y)):
        if _is_constant(constant):
            note = f"All {what} are {constant[0]:g}: no metric is defined."
            nothing = {name: Estimate(value=math.nan) for name in METRICS}
            return Agreement(videos=len(x), metrics=nothing, curve=None, notes=(note,))
    curve = fit_curve(x, y)
    values = _measure(x, y, curve)
    notes = []
    if curve.kind == "line":
        notes.append("The logistic fit did not converge: the fitted PLCC and RMSE are those of a straight line.")
    if math.isnan(values[METRICS.index("plcc_fitted")]):
        notes.append("The fitted curve is flat over the scores: no fitted PLCC is defined.")
    if curve.is_falling:
        notes.append("The fitted curve falls: high scores go with low opinions.")
    low: list[float] = [math.nan] * len(METRICS)
    high: list[float] = [math.nan] * len(METRICS)
    if resamples:
        samples = _bootstrap(x, y, curve, contents, resamples, seed)
        if contents is not None and (count := len(set(contents))) < MIN_VIDEOS:
            samples = samples[:0]
            notes.append(f"{count} contents are too few for intervals; expected at least {MIN_VIDEOS}.")
        elif lost := resamples - len(samples):
            notes.append(f"{lost} of {resamples} bootstrap samples were constant or tiny and are not in the intervals.")
        if len(samples):
            low = np.quantile(samples, 0.025, axis=0).tolist()
            high = np.quantile(samples, 0.975, axis=0).tolist()
    estimates = {
        name: Estimate(value=value, low=least, high=most)
        for name, value, least, most in zip(METRICS, values, low, high, strict=True)
    }
    return Agreement(videos=len(x), metrics=estimates, curve=curve, notes=tuple(notes))


def rank_correlation(scores: ArrayLike, mos: ArrayLike) -> float:
    """The SRCC of scores [n] against opinions [n]; NaN under `MIN_VIDEOS` of them, or where either are constant."""
    x, y = _check("scores", scores), _check("mos", mos)
    if len(x) < MIN_VIDEOS or _is_constant(x) or _is_constant(y):
        return math.nan
    return float(scipy.stats.spearmanr(x, y).statistic)


def fit_curve(scores: _Floats, mos: _Floats, start: OpinionCurve | None = None) -> OpinionCurve:
    """The logistic of least squared error from scores [n] to opinions [n], by Levenberg-Marquardt.

    It starts from β1 = max(mos), β2 = min(mos), β3 = mean(scores), β4 = std(scores)/4; if that does not converge, or
    ends worse than a straight line, from the wide logistic that is close to that line; if that fails too, the line
    itself is the result. Neither array is constant.

    Args:
        start: where to start instead; a line is only fitted again as a line.
    """
    center, scale = scores.mean(), scores.std()
    # In standard units, so that one step size suits all four parameters.
    z = (scores - center) / scale
    slope, intercept = np.polyfit(z, mos, 1)
    line = OpinionCurve(kind="line", parameters=(float(slope / scale), float(intercept - slope * center / scale)))
    line_error = float(np.square(slope * z + intercept - mos).sum())
    low, high = mos.min(), mos.max()
    steep = [high, low, 0.0, 0.25]
    # A logistic's slope in its middle is (β1 − β2) / 4 |β4|.
    wide = [intercept + 4 * slope, intercept - 4 * slope, 0.0, 2.0]
    starts = [np.array(steep), np.array(wide)]
    if start is not None:
        if start.kind == "line":
            return line
        b1, b2, b3, b4 = start.parameters
        starts = [np.array([b1, b2, (b3 - center) / scale, b4 / scale])]
    # A millionth of the squared error is far below what an interval shows, and near a line the last digits take ages.
    tolerance = 1e-8 if start is None else 1e-6
    for beta in starts:
        # The covariance, which is not used, may overflow near a line.
        with np.errstate(over="ignore", invalid="ignore"):
            found, _, details, _, status = scipy.optimize.leastsq(
                lambda b: _logistic(z, _widened(b)) - mos,
                beta,
                Dfun=lambda b: _logistic_derivatives(z, _widened(b)) * [1, 1, 1, np.sign(b[3])],
                full_output=True,
                ftol=tolerance,
                xtol=tolerance,
                maxfev=2000,
            )
        error = float(np.square(details["fvec"]).sum())
        # Of data on a line a logistic comes only so close.
        if status in (1, 2, 3, 4) and np.isfinite(found).all() and error <= line_error * (1 + 1e-5):
            b1, b2, b3, b4 = (float(value) for value in _widened(found))
            return OpinionCurve(kind="logistic", parameters=(b1, b2, float(center + scale * b3), float(scale * b4)))
    return line


def _logistic(x: _Floats, beta: _Floats) -> _Floats:
    b1, b2, b3, b4 = beta
    return np.asarray(b2 + (b1 - b2) * scipy.special.expit((x - b3) / b4))


def _logistic_derivatives(x: _Floats, beta: _Floats) -> _Floats:
    """∂f/∂β, [n, 4], for β4 > 0."""
    b1, b2, b3, b4 = beta
    u = (x - b3) / b4
    rise = scipy.special.expit(u)
    slope = (b1 - b2) * rise * (1 - rise) / b4
    return np.stack([rise, 1 - rise, -slope, -slope * u], axis=1)


def _widened(beta: _Floats) -> _Floats:
    """β with |β4|, and at least `LEAST_WIDTH`, in its last place."""
    return np.array([*beta[:3], max(abs(beta[3]), LEAST_WIDTH)])


def _measure(x: _Floats, y: _Floats, curve: OpinionCurve) -> list[float]:
    """The values of `METRICS`, in their order."""
    fitted = curve(x)
    matched = (x - x.mean()) / x.std() * y.std() + y.mean()
    srcc, plcc = float(scipy.stats.spearmanr(x, y).statistic), float(scipy.stats.pearsonr(x, y).statistic)
    return [
        srcc,
        plcc,
        math.nan if _is_constant(fitted) else float(scipy.stats.pearsonr(fitted, y).statistic),
        float(scipy.stats.kendalltau(x, y).statistic),
        float(np.sqrt(np.square(fitted - y).mean())),
        float(np.sqrt(np.square(matched - y).mean())),
        (srcc + plcc) / 2,
    ]


def _bootstrap(
    x: _Floats, y: _Floats, curve: OpinionCurve, contents: Sequence[Hashable] | None, resamples: int, seed: int
) -> _Floats:
    """The metrics [samples, 7] of resampled videos; samples in which a metric is not defined are left out."""
    by_content: dict[Hashable, list[int]] = {}
    for index, content in enumerate(range(len(x)) if contents is None else contents):
        by_content.setdefault(content, []).append(index)
    groups = [np.array(members) for members in by_content.values()]
    generator = np.random.default_rng(seed)
    samples = []
    for _ in range(resamples):
        drawn = generator.integers(len(groups), size=len(groups))
        rows = np.concatenate([groups[group] for group in drawn])
        if len(rows) >= MIN_VIDEOS and not (_is_constant(x[rows]) or _is_constant(y[rows])):
            sample = _measure(x[rows], y[rows], fit_curve(x[rows], y[rows], start=curve))
            if not any(map(math.isnan, sample)):
                samples.append(sample)
    return np.array(samples).reshape(-1, len(METRICS))


def _check(name: str, values: ArrayLike) -> _Floats:
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} has the shape {array.shape}; expected one value for a video")
    if not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}[{index}] is {array[index]}; expected finite values")
    return array


def _is_constant(values: _Floats) -> bool:
    """True where values differ by rounding at most: a coefficient of such would be noise."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())
