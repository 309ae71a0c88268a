"""A server's answer: of an older or a newer server it is taken, of another one it is refused in a sentence."""

import dataclasses
import json

import numpy as np
import pytest

from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.results import ModelFacts
from diffvqa_rt.serving.client.answers import AnswerError, score_from_answer
from diffvqa_rt.video import sample_frames

FACTS = dataclasses.asdict(
    ModelFacts(
        model="tiny",
        is_trained=True,
        weights_sha256="ab",
        engines_sha256="cd",
        precision="fp32",
        backend="onnx",
        views_by="pillow",
        score_range=(0.0, 100.0),
    )
)
INFO = dataclasses.asdict(sample_frames(np.zeros((1, 8, 8, 3), np.uint8), 1).info)
NEW = ("color_primaries", "sample_aspect_ratio", "field_order", "is_deinterlaced")


def answer(info=INFO, facts=FACTS, **tensors):
    as_bytes = {
        name: np.frombuffer(json.dumps(values).encode(), np.uint8)
        for name, values in {"video_info": info, "model": facts}.items()
    }
    numbers = {
        "score": np.array([40, 50], np.float32),
        "frame_scores": np.full((2, 3), 45, np.float32),
        "frame_weights": np.full((2, 3), 1 / 3, np.float32),
        "timestamps_seconds": np.arange(3.0),
        "stage_seconds": np.arange(5.0),
    }
    return numbers | as_bytes | tensors


def test_an_answer_is_a_score_with_its_warnings():
    told = [{"code": "something-new", "message": "Nobody knows it here.", "since": 7}]
    score = score_from_answer(answer({**INFO, "warnings": told, "bit_rate": 1}), source="clip.mp4", seed=3)
    assert (score.source, score.seed, score.score, score.crop_spread) == ("clip.mp4", 3, 45, 10)
    assert score.warnings == (ScoreWarning("something-new", "Nobody knows it here."),)
    assert score.score_range == (0, 100) and list(score.stage_seconds) == list(METRIC.stages)


def test_an_older_server_is_understood():
    older = {name: value for name, value in INFO.items() if name not in NEW}
    score = score_from_answer(answer(older), source="clip.mp4", seed=0)
    assert score.warnings == () and not score.video.is_deinterlaced
    assert (score.video.color_primaries, score.video.field_order) == ("unspecified", "unknown")


def test_a_metric_may_score_no_frames_or_weigh_none():
    tensors = answer()
    del tensors["frame_weights"]
    score = score_from_answer(tensors, source="clip.mp4", seed=0)
    assert (score.score, score.frame_scores, score.frame_weights) == (45, (45, 45, 45), ())
    del tensors["frame_scores"]
    assert score_from_answer(tensors, source="clip.mp4", seed=0).frame_scores == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"score": None}, "it has no score"),
        ({"score": np.array([np.nan, 1], np.float32)}, "score is float32"),
        ({"score": np.array([b"a"])}, "score is"),
        ({"frame_scores": np.ones((1, 3), np.float32)}, "as many crops and frames"),
        ({"stage_seconds": np.ones(4)}, "stage_seconds has 4 values"),
        ({"video_info": np.frombuffer(b"\xff{", np.uint8)}, "video_info is no JSON"),
        ({"model": np.frombuffer(b"[]", np.uint8)}, "model is a list"),
        ({"info": {"width": 8}}, "video_info has no height"),
        ({"info": {**INFO, "width": "8"}}, "video_info has width '8'"),
        ({"info": {**INFO, "warnings": "none"}}, "no list"),
        ({"info": {**INFO, "warnings": [{"code": 1}]}}, "without a code and a message"),
        ({"facts": {**FACTS, "score_range": [0]}}, "model has score_range"),
    ],
)
def test_an_answer_that_is_none_is_refused_in_a_sentence(change, sentence):
    with pytest.raises(AnswerError, match=sentence):
        score_from_answer(answer(**change), source="clip.mp4", seed=0)
