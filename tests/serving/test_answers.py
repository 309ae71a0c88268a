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
        metric="diffvqa",
        is_temporal=True,
        parts=(),
        takes_prompt=False,
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
    facts = {name: value for name, value in FACTS.items() if name not in ("metric", "is_temporal", "parts")}
    score = score_from_answer(answer(older, facts), source="clip.mp4", seed=0)
    assert (score.metric, score.is_temporal, score.parts, score.crop_regions) == ("diffvqa", True, {}, ())
    assert score.warnings == () and not score.video.is_deinterlaced
    assert (score.video.color_primaries, score.video.field_order) == ("unspecified", "unknown")


def test_parts_regions_and_patch_maps_are_taken_where_they_are():
    facts = {**FACTS, "metric": "diffv2iqa", "is_temporal": False, "parts": ["vcg", "vda"]}
    parts = {"vcg": np.array([1, 3], np.float32), "vda": np.array([5, 6], np.float32)}
    maps = {name: np.ones((2, 3, 2, 4, 4), np.float32) for name in ("patch_scores", "patch_weights")}
    tensors = answer({**INFO, "crop_regions": [[0, 1, 8, 9], [2, 3, 10.5, 11]]}, facts, **parts, **maps)
    score = score_from_answer(tensors, source="a.png", seed=0)
    assert (score.metric, score.is_temporal, score.parts) == ("diffv2iqa", False, {"vcg": 2, "vda": 5.5})
    assert score.crop_regions == ((0, 1, 8, 9), (2, 3, 10.5, 11)) and score.patch_maps is None
    asked = score_from_answer(tensors, source="a.png", seed=0, patch_maps=True)
    assert asked.patch_maps is not None and asked.patch_maps.parts == ("vcg", "vda")
    assert np.shape(asked.patch_maps.scores) == (2, 3, 2, 4, 4)


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
        ({"info": {**INFO, "crop_regions": [[0, 1, 8]]}}, "a crop region that is not four numbers"),
        ({"facts": {**FACTS, "score_range": [0]}}, "model has score_range"),
        ({"facts": {**FACTS, "parts": ["vcg"]}}, "it has no vcg"),
        ({"facts": {**FACTS, "parts": "vcg"}}, "model has parts"),
    ],
)
def test_an_answer_that_is_none_is_refused_in_a_sentence(change, sentence):
    with pytest.raises(AnswerError, match=sentence):
        score_from_answer(answer(**change), source="clip.mp4", seed=0)
