"""Prompts in scoring: one, several for one video, none; and what a result says of them."""

import dataclasses
import shutil

import numpy as np
import pytest
from clips import make_clip

from diffvqa_rt import Scorer, ScoringFailure, VideoScore
from diffvqa_rt.errors import EngineMismatchError, InputError
from diffvqa_rt.metrics.aigc_vqa.metric import METRIC, VOCABULARY
from diffvqa_rt.results import csv_columns, csv_row

CAT, CAR = "a cat on a sofa", "two red cars at night"


@pytest.fixture(scope="module")
def scorer(prompted_engines):
    with Scorer.open(prompted_engines) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, size in (("one.mp4", (96, 80)), ("two.mp4", (160, 120))):
        (folder / name).write_bytes(make_clip(size=size, frames=9))
    return [folder / "one.mp4", folder / "two.mp4"]


def untimed(result: VideoScore) -> dict:
    return {name: value for name, value in result.as_dict().items() if name != "stage_seconds"}


def test_a_prompt_changes_the_alignment_alone(scorer, clips):
    cat, car = (scorer.score(clips[0], prompt=prompt) for prompt in (CAT, CAR))
    assert cat.parts.keys() == cat.raw_parts.keys() == {"technical", "aesthetic", "alignment"}
    assert {name for name in cat.parts if cat.parts[name] != car.parts[name]} == {"alignment"}
    assert (cat.prompt, cat.prompt_tokens, cat.is_prompt_truncated) == (CAT, 12, True)
    assert tuple(cat.stage_seconds) == METRIC.stages


def test_without_a_prompt_the_result_says_so(scorer, clips):
    seen, asked = scorer.score(clips[0]), scorer.score(clips[0], prompt=CAT)
    assert seen.model == "tiny (untrained), without prompt" and asked.model == "tiny (untrained)"
    assert seen.parts["alignment"] is None and seen.prompt is None
    assert seen.raw_parts == {name: asked.raw_parts[name] for name in ("technical", "aesthetic")}
    assert set(seen.stage_seconds) == {"decode", "views", "technical", "aesthetic"}
    row = csv_row(seen, csv_columns(METRIC.stages, METRIC.part_names(scorer.manifest.config)))
    assert row["part_alignment"] == row["vision_seconds"] == row["prompt"] == ""
    assert csv_row(asked, ["prompt", "prompt_tokens"]) == {"prompt": CAT, "prompt_tokens": 12}


def test_several_prompts_see_a_video_once_and_score_as_each_alone(scorer, clips, monkeypatch):
    runs = []
    for name, engine in scorer._engines.items():
        monkeypatch.setitem(scorer._engines, name, _Counted(engine, runs))
    results = list(scorer.score_many(clips, prompts=[[CAT, CAR], CAT]))
    assert sorted(runs) == sorted(["technical", "aesthetic", "vision", "alignment"] * 2)
    monkeypatch.undo()
    alone = [scorer.score(path, prompt=prompt) for path, prompt in [(clips[0], CAT), (clips[0], CAR), (clips[1], CAT)]]
    assert list(map(untimed, results)) == list(map(untimed, alone))


class _Counted:
    """An engine that writes down its runs."""

    def __init__(self, engine, runs):
        self._engine, self._runs = engine, runs
        self.spec, self.max_videos = engine.spec, engine.max_videos

    def __call__(self, inputs, outputs=None):
        self._runs.append(self.spec.name)
        return self._engine(inputs, outputs)


def test_batch_crops_and_company_change_no_bit(scorer, clips):
    prompts = [CAT, None, [CAR, CAT, CAR], None]
    sources = [clips[0], clips[1], clips[1], clips[0]]
    one_by_one = list(scorer.score_many(sources, prompts=prompts, crops=2, patch_maps=True))
    assert [result.prompt for result in one_by_one] == [CAT, None, CAR, CAT, CAR, None]
    together = scorer.score_many(sources, prompts=prompts, crops=2, patch_maps=True, batch=4)
    assert list(map(untimed, together)) == list(map(untimed, one_by_one))
    assert one_by_one[0].crop_scores[0] == scorer.score(clips[0], prompt=CAT).score != one_by_one[0].crop_scores[1]


def test_engines_and_torch_agree(scorer, prompted_engines, clips):
    with Scorer.open(prompted_engines, backend="torch") as reference:
        for prompt in (CAT, CAR, None):
            ours, theirs = (one.score(clips[1], prompt=prompt).score for one in (scorer, reference))
            assert abs(ours - theirs) < 1e-2


def test_a_prompt_that_cannot_be_read_costs_its_own_result_alone(scorer, clips):
    first, second, third = scorer.score_many([clips[0], clips[1], clips[0]], prompts=[CAT, " ", CAT])
    assert isinstance(second, ScoringFailure) and second.error.startswith("prompt is blank")
    assert untimed(first) == untimed(third)
    failures = list(scorer.score_many([b"no video"], prompts=[[CAT, CAR]]))
    assert [type(failure) for failure in failures] == [ScoringFailure] * 2


def test_a_prompt_of_a_megabyte_is_read_and_cut(scorer, clips):
    result = scorer.score(clips[0], prompt="word " * 200_000)
    assert result.is_prompt_truncated and result.prompt_tokens == 800_002
    assert [warning.code for warning in result.warnings] == ["prompt-truncated"]


def test_what_does_not_fit_together_is_refused(scorer, clips):
    with pytest.raises(ValueError, match="prompts are 1 for 2 sources"):
        next(scorer.score_many(clips, prompts=[CAT]))
    with pytest.raises(TypeError, match="prompts is one text"):
        next(scorer.score_many(clips, prompts=CAT))
    with pytest.raises(InputError, match="prompt is blank"):
        scorer.score(clips[0], prompt="  ")


def test_a_metric_without_prompts_refuses_one(small_engines, clips):
    with Scorer.open(small_engines) as videos, pytest.raises(InputError, match=f"prompt is {CAT}; DiffVQA does not"):
        videos.score(clips[0], prompt=CAT)


def test_another_vocabulary_than_the_builds_is_refused(prompted_engines, tmp_path):
    folder = shutil.copytree(prompted_engines, tmp_path / "engines")
    (folder / VOCABULARY).write_bytes(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(EngineMismatchError, match=r"vocab.txt has SHA-256"):
        Scorer.open(folder)
    with pytest.raises(EngineMismatchError, match=r"vocab.txt was changed"):
        Scorer.open(prompted_engines).manifest.verify(folder)


def test_an_array_and_a_still_have_prompts_too(scorer):
    frames = np.random.default_rng(0).integers(0, 256, (6, 70, 90, 3), np.uint8)
    assert scorer.score(frames, prompt=CAT).score != scorer.score(frames, prompt=CAR).score
    still = scorer.score(frames[0], prompt=CAT)
    assert len(set(still.frame_scores)) > 0 and len(still.timestamps_seconds) == scorer.manifest.config.frames
    assert dataclasses.asdict(still)["prompt"] == CAT
