"""Ranks, percentiles and pairs, by hand-made scores."""

from pathlib import Path

import numpy as np
import pytest

from diffvqa_rt.errors import ReportError
from diffvqa_rt.report.comparison import RESAMPLES, compare, mean_interval
from diffvqa_rt.report.ranking import places, scored_sets

A, B = Path("a.json"), Path("b.json")


def test_equal_scores_share_the_better_rank_and_the_middle_percentile(scored):
    results = [scored(score=score) for score in (50.0, 90.0, 50.0, 10.0)]
    found = places(results, scored_sets(results))
    assert [place.rank for place in found] == [2, 1, 2, 4]
    assert [place.percentile for place in found] == [50.0, 87.5, 50.0, 12.5]


def test_results_of_different_engines_are_ranked_apart(scored):
    results = [scored(score=1.0), scored(score=2.0, engines_sha256="cc" * 32), scored(score=3.0, model="tiny, 1 step")]
    sets = scored_sets(results)
    assert [one.label for one in sets] == [
        "diffvqa, tiny, fp32, onnx, engines bbbbbbbb",
        "diffvqa, tiny, fp32, onnx, engines cccccccc",
        "diffvqa, tiny, 1 step, fp32, onnx",
    ]
    assert [place.rank for place in places(results, sets)] == [1, 1, 1]


def test_two_encodes_pair_by_the_path_below_their_folders(scored, results_of):
    first = results_of(scored("x264/a/cat.mp4", 50.0), scored("x264/dog.mp4", 60.0), path=A)
    second = results_of(scored("av1/dog.mkv", 61.0), scored("av1/a/cat.mkv", 53.0), scored("av1/new.mkv", 9.0), path=B)
    found = compare(first, second)
    assert [(pair.name, pair.first, pair.second, pair.difference) for pair in found.pairs] == [
        ("a/cat", 0, 3, 3.0),
        ("dog", 1, 2, 1.0),
    ]
    assert (found.mean, found.higher, found.lower, found.equal, found.unpaired) == (2.0, 2, 0, 0, 1)
    assert found.interval is None  # of two pairs


def test_ids_pair_what_names_do_not(scored, results_of):
    first = results_of(scored("x/1.mp4", 50.0), path=A, ids=["cat"])
    second = results_of(scored("y/2.mp4", 40.0), path=B, ids=["cat"])
    assert compare(first, second).mean == -10.0


def test_prompts_tell_results_of_one_video_apart(scored, results_of):
    first = results_of(scored(prompt="a cat", score=1.0), scored(prompt="a dog", score=2.0), path=A)
    second = results_of(scored(prompt="a dog", score=5.0), path=B)
    assert [pair.difference for pair in compare(first, second).pairs] == [3.0]


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ([{"source": "other.mp4"}], "no result of a.json has a partner in b.json"),
        ([{}, {}], "b.json has 2 results of 'clip'"),
        ([{"metric": "diffv2iqa"}], "are not on one scale"),
    ],
)
def test_what_does_not_compare_is_refused(scored, results_of, second, sentence):
    with pytest.raises(ReportError, match=sentence):
        compare(results_of(scored(), path=A), results_of(*(scored(**changes) for changes in second), path=B))


def test_the_interval_is_the_means_own():
    """Of many normal differences it is that of the normal distribution, ±1.96 σ/√n, and one seed gives one interval."""
    differences = np.random.default_rng(1).normal(0.5, 2.0, 400)
    low, high = mean_interval(differences)
    half = 1.96 * differences.std() / 20
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.03 * half + 0.02)
    assert mean_interval(differences) == (low, high)
    assert mean_interval(np.full(10, 3.0)) == (3.0, 3.0)
    assert RESAMPLES >= 10_000
