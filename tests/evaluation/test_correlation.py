"""Metrics against independent formulas, the logistic fit against known curves, the intervals against their promise."""

import itertools
import math

import numpy as np
import pytest

from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.evaluation import correlation
from diffvqa_rt.evaluation.correlation import METRICS, MIN_VIDEOS, OpinionCurve, fit_curve, measure_agreement

SCORES = np.array([1.0, 2.0, 2.0, 5.0, 4.0, 7.0, 6.5, 8.0, 9.0, 3.0, 3.5, 10.0])
MOS = np.array([12.0, 20.0, 26.0, 41.0, 41.0, 80.0, 55.0, 61.0, 90.0, 8.0, 37.0, 88.0])


def ranks(values):
    """Average ranks by counting."""
    return np.array([np.sum(values < v) + (np.sum(values == v) + 1) / 2 for v in values])


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x @ y) / math.sqrt((x @ x) * (y @ y))


def kendall_tau_b(x, y):
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    tied_x, tied_y = sum(a == 0 for a, _ in signs), sum(b == 0 for _, b in signs)
    return sum(a * b for a, b in signs) / math.sqrt((len(pairs) - tied_x) * (len(pairs) - tied_y))


def logistic(x, b1, b2, b3, b4):
    return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4)))


def test_coefficients_are_those_of_the_textbook_ties_included():
    metrics = measure_agreement(SCORES, MOS, resamples=0).metrics
    assert metrics["srcc"].value == pytest.approx(pearson(ranks(SCORES), ranks(MOS)), abs=1e-12)
    assert metrics["plcc"].value == pytest.approx(pearson(SCORES, MOS), abs=1e-12)
    assert metrics["krcc"].value == pytest.approx(kendall_tau_b(SCORES, MOS), abs=1e-12)


def test_fitted_metrics_are_those_of_the_curve_that_comes_with_them():
    agreement = measure_agreement(SCORES, MOS, resamples=0)
    fitted = agreement.curve(SCORES)
    assert agreement.curve.kind == "logistic"
    np.testing.assert_allclose(fitted, logistic(SCORES, *agreement.curve.parameters))
    assert agreement.metrics["plcc_fitted"].value == pytest.approx(pearson(fitted, MOS), abs=1e-12)
    assert agreement.metrics["rmse"].value == pytest.approx(math.sqrt(np.mean((fitted - MOS) ** 2)), abs=1e-12)


def test_matched_rmse_and_the_main_score_are_the_fields():
    metrics = measure_agreement(SCORES, MOS, resamples=0).metrics
    matched = (SCORES - np.mean(SCORES)) / np.std(SCORES) * np.std(MOS) + np.mean(MOS)
    assert metrics["rmse_matched"].value == pytest.approx(math.sqrt(np.mean((matched - MOS) ** 2)), abs=1e-12)
    # So it says what PLCC does, in units of the MOS.
    assert metrics["rmse_matched"].value == pytest.approx(
        np.std(MOS) * math.sqrt(2 - 2 * metrics["plcc"].value), abs=1e-12
    )
    assert metrics["main"].value == (metrics["srcc"].value + metrics["plcc"].value) / 2


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (0.04, 1), (1e6, -5e6), (1e-6, 0)])
@pytest.mark.parametrize("direction", [1, -1])
def test_the_fit_recovers_a_known_curve_on_any_scale(scale, offset, direction):
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 100, 400)
    b1, b2, b3, b4 = (4.6, 1.3, 42.0, 9.0) if direction > 0 else (1.3, 4.6, 42.0, 9.0)
    mos = logistic(x, b1, b2, b3, b4)
    curve = fit_curve(offset + scale * x, mos)
    assert curve.kind == "logistic"
    assert curve.parameters == pytest.approx((b1, b2, offset + scale * b3, scale * b4), rel=1e-4)
    assert curve.is_falling == (direction < 0)
    noisy = mos + rng.normal(0, 0.2, len(x))
    assert fit_curve(x, noisy).parameters == pytest.approx((b1, b2, b3, b4), rel=0.15)


def test_the_fit_is_at_least_as_good_as_a_line_on_awkward_data():
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 1, 60)
    for mos in [(x > 0.5) * 1.0, (x - 0.5) ** 2, rng.normal(size=60), 2 * x, -x, np.exp(8 * x), (x > 0.98) + 1e-9 * x]:
        curve = fit_curve(x, mos)
        line = np.polyval(np.polyfit(x, mos, 1), x)
        assert np.square(curve(x) - mos).sum() <= np.square(line - mos).sum() * (1 + 1e-5) + 1e-20
        assert np.isfinite(curve(np.linspace(-10, 10, 50))).all()


def test_a_fit_that_does_not_converge_falls_back_to_a_line_and_says_so(monkeypatch):
    import scipy.optimize

    unfinished = (np.zeros(4), None, {"fvec": np.zeros(12)}, "too many calls", 5)
    monkeypatch.setattr(scipy.optimize, "leastsq", lambda *_, **__: unfinished)
    agreement = measure_agreement(SCORES, MOS, resamples=20)
    slope, intercept = np.polyfit(SCORES, MOS, 1)
    assert agreement.curve == OpinionCurve(kind="line", parameters=pytest.approx((slope, intercept)))
    assert agreement.metrics["plcc_fitted"].value == pytest.approx(agreement.metrics["plcc"].value)
    assert "did not converge" in agreement.notes[0]


def test_an_anticorrelated_model_is_noted_and_its_raw_coefficients_are_negative():
    agreement = measure_agreement(-SCORES, MOS, resamples=0)
    assert agreement.metrics["srcc"].value < 0 and agreement.metrics["plcc"].value < 0
    assert agreement.metrics["plcc_fitted"].value > 0
    assert agreement.notes == ("The fitted curve falls: high scores go with low opinions.",)


@pytest.mark.parametrize(
    ("scores", "mos", "what"),
    [
        (np.full(12, 3.5), MOS, "All scores are 3.5"),
        (3.5 + 1e-15 * SCORES, MOS, "All scores are 3.5"),
        (SCORES, np.zeros(12), "All opinions are 0"),
    ],
)
def test_constant_values_give_nan_and_say_why(scores, mos, what):
    agreement = measure_agreement(scores, mos)
    assert all(math.isnan(agreement.metrics[name].value) for name in METRICS)
    assert agreement.curve is None
    assert agreement.notes == (f"{what}: no metric is defined.",)


def test_too_few_videos_are_refused():
    few = MIN_VIDEOS - 1
    with pytest.raises(EvaluationError, match=f"{few} scores are too few to evaluate; expected at least {MIN_VIDEOS}"):
        measure_agreement(SCORES[:few], MOS[:few])
    assert measure_agreement(SCORES[:MIN_VIDEOS], MOS[:MIN_VIDEOS], resamples=5).videos == MIN_VIDEOS


@pytest.mark.parametrize(
    ("scores", "mos", "sentence"),
    [
        ([math.nan, *SCORES[1:]], MOS, r"scores\[0\] is nan; expected finite values"),
        (SCORES, [*MOS[:-1], math.inf], r"mos\[11\] is inf"),
        (SCORES[:-1], MOS, "scores has 11 values, and mos 12"),
        (SCORES[None], MOS, r"scores has the shape \(1, 12\)"),
    ],
)
def test_bad_arrays_are_refused(scores, mos, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure_agreement(scores, mos)


def test_intervals_repeat_with_a_seed_hold_the_value_and_shrink_with_the_videos():
    rng = np.random.default_rng(11)
    x = rng.normal(size=400)
    mos = x + rng.normal(0, 0.7, 400)
    small = measure_agreement(x[:50], mos[:50], resamples=100)
    assert small == measure_agreement(x[:50], mos[:50], resamples=100)
    assert small.metrics != measure_agreement(x[:50], mos[:50], resamples=100, seed=1).metrics
    large = measure_agreement(x, mos, resamples=100)
    for name in METRICS:
        one, many = small.metrics[name], large.metrics[name]
        assert one.low < one.value < one.high
        assert many.high - many.low < 0.6 * (one.high - one.low)
    without = measure_agreement(x, mos, resamples=0)
    assert without.metrics["srcc"].value == large.metrics["srcc"].value
    assert math.isnan(without.metrics["srcc"].low)


def test_the_intervals_cover_the_truth_about_as_often_as_they_promise(monkeypatch):
    """Binormal data with ρ = 0.8, of which Spearman's coefficient is 6/π·asin(ρ/2), and Kendall's 2/π·asin(ρ)."""
    # A fit in each resample takes nearly all of the time, and none of the three needs it.
    line = OpinionCurve(kind="line", parameters=(1.0, 0.0))
    monkeypatch.setattr(correlation, "fit_curve", lambda *_, start=None: line)
    rng = np.random.default_rng(17)
    rho, trials = 0.8, 40
    truth = {"plcc": rho, "srcc": 6 / math.pi * math.asin(rho / 2), "krcc": 2 / math.pi * math.asin(rho)}
    hits = dict.fromkeys(truth, 0)
    for trial in range(trials):
        x = rng.normal(size=100)
        mos = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=100)
        metrics = measure_agreement(x, mos, resamples=100, seed=trial).metrics
        for name, value in truth.items():
            hits[name] += metrics[name].low <= value <= metrics[name].high
    # A right 95 % misses 2 of 40, and more than 7 once in a thousand times; never missing would be as wrong.
    assert all(trials - 7 <= count for count in hits.values()) and sum(hits.values()) < 3 * trials, hits


def test_an_interval_is_as_wide_as_theory_has_it():
    """The standard error of Pearson's coefficient over n binormal pairs is (1 − ρ²)/√n."""
    rng = np.random.default_rng(23)
    rho, count = 0.8, 900
    x = rng.normal(size=count)
    mos = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=count)
    plcc = measure_agreement(x, mos, resamples=400).metrics["plcc"]
    reach = 1.96 * (1 - rho**2) / math.sqrt(count)
    assert plcc.value - plcc.low == pytest.approx(reach, rel=0.25)
    assert plcc.high - plcc.value == pytest.approx(reach, rel=0.25)


def test_videos_of_one_content_are_resampled_together():
    rng = np.random.default_rng(2)
    content = rng.normal(size=20)
    x = np.repeat(content, 10)
    mos = np.repeat(content + rng.normal(0, 0.7, 20), 10) + rng.normal(0, 0.05, 200)
    alone = measure_agreement(x, mos, resamples=100).metrics["plcc"]
    together = measure_agreement(x, mos, resamples=100, contents=np.repeat(np.arange(20), 10).tolist()).metrics["plcc"]
    assert together.value == alone.value
    # Ten copies of a content hold hardly more than one does: about √10 wider.
    assert together.high - together.low > 2 * (alone.high - alone.low)
    few = measure_agreement(x, mos, resamples=20, contents=np.repeat(np.arange(4), 50).tolist())
    assert math.isnan(few.metrics["plcc"].low) and few.notes == (
        "4 contents are too few for intervals; expected at least 10.",
    )


def test_samples_in_which_nothing_varies_are_counted():
    scores = np.zeros(12)
    scores[0] = 1
    agreement = measure_agreement(scores, MOS, resamples=300)
    (note,) = [note for note in agreement.notes if "bootstrap" in note]
    # Without the one that differs: (11/12)^12 of the samples.
    assert 70 <= int(note.split()[0]) <= 140 and note.endswith("are not in the intervals.")
    assert math.isfinite(agreement.metrics["srcc"].low)
