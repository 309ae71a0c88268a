"""A metric of torchmetrics: the mean of what `Scorer` gives, whichever way the videos come."""

import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed", exc_type=ImportError)

from diffvqa_rt import Scorer
from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.plugins.torchmetrics import MeanScore

VIDEOS = np.random.default_rng(0).integers(0, 256, (3, 4, 40, 60, 3), np.uint8)
TENSOR = torch.from_numpy(VIDEOS).permute(0, 1, 4, 2, 3)


@pytest.fixture(scope="module")
def scores(small_engines) -> list[float]:
    with Scorer.open(small_engines) as scorer:
        return [scorer.score(video, seed=3).score for video in VIDEOS]


@pytest.fixture
def metric(small_engines) -> MeanScore:
    return MeanScore(small_engines, seed=3)


def test_the_mean_is_over_all_updates(metric, scores):
    metric.update(TENSOR[:2])
    metric.update([VIDEOS[2]])
    assert metric.compute().item() == pytest.approx(np.mean(scores), abs=1e-12)
    metric.reset()
    assert metric(TENSOR[1:2]).item() == scores[1]  # `forward`: of this batch alone
    metric.update(TENSOR[:1].float() / 255)
    assert metric.compute().item() == pytest.approx(np.mean(scores[:2]), abs=1e-12)


def test_pictures_and_files_are_scored_too(metric, small_engines, clip):
    metric.update(TENSOR[:, 0])
    metric.update([clip])
    with Scorer.open(small_engines) as scorer:
        expected = [scorer.score(source, seed=3).score for source in [*VIDEOS[:, :1], clip]]
    assert metric.compute().item() == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_copy_goes_on_by_itself(metric, scores):
    metric.update(TENSOR[:1])
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        copy.update(TENSOR[1:2])
        assert copy.compute().item() == pytest.approx(np.mean(scores[:2]), abs=1e-12)
    assert metric.compute().item() == scores[0]


def test_a_video_that_cannot_be_scored_is_an_error_and_the_others_of_the_call_do_not_count(metric, scores):
    metric.update(TENSOR[:1])
    with pytest.raises(VideoDecodeError, match="<bytes> is not a video"):
        metric.update([VIDEOS[1], b"no video"])
    assert metric.compute().item() == scores[0]


@pytest.mark.parametrize(
    ("videos", "error", "sentence"),
    [
        (TENSOR.long(), TypeError, "videos are torch.int64; expected uint8"),
        (TENSOR.float(), ValueError, "videos have values from 0 to 255; expected 0 to 1"),
        (TENSOR.float() * torch.nan, ValueError, "values from nan to nan"),
        (TENSOR[0, 0], ValueError, r"videos are of shape \(3, 40, 60\); expected \[N, T, 3, H, W\]"),
        (torch.from_numpy(VIDEOS), ValueError, r"of shape \(3, 4, 40, 60, 3\)"),
        (TENSOR[:0], ValueError, r"of shape \(0, 4, 3, 40, 60\)"),
    ],
)
def test_tensors_of_another_kind_are_refused_in_a_sentence(metric, videos, error, sentence):
    with pytest.raises(error, match=sentence):
        metric.update(videos)
