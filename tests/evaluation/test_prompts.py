"""Scores of prompts: kept with their prompts, and never beside scores without."""

import json
from dataclasses import replace

import pytest
from opinions import StandInScorer, make_table

from diffvqa_rt.errors import EvaluationError, MosTableError
from diffvqa_rt.evaluation import report
from diffvqa_rt.evaluation.evaluate import EvaluationConfig, ModelScores, evaluate
from diffvqa_rt.evaluation.mos_table import MosTable
from diffvqa_rt.evaluation.scores import Scores, ScoreStamp, prompts_of, read_scores, score_rows

STAMP = ScoreStamp(weights_sha256="w" * 8, engines_sha256="e" * 8, backend="onnx", seed=3, crops=2)


def prompted(count: int = 4, without=()) -> MosTable:
    table = make_table(count, name="t2vqa-db", copies=2)
    rows = (replace(row, prompt=None if row.name in without else f"a cat, {row.content}") for row in table.rows)
    return replace(table, rows=tuple(rows))


def test_each_video_is_scored_against_its_prompt_and_kept_with_it(tmp_path):
    table, path = prompted(), tmp_path / "kept.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_rows(StandInScorer(stops_at="v001"), table.rows, path, STAMP, prompts=prompts_of(table))
    scorer = StandInScorer()
    scores = score_rows(scorer, table.rows, path, STAMP, prompts=prompts_of(table))
    # Those that remain.
    assert scorer.options["prompts"] == ["a cat, c0", "a cat, c1", "a cat, c1"]
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert {entry["video"]: entry["prompt"] for entry in entries} == prompts_of(table)
    assert read_scores(path, table) == scores and len(scores.by_name) == 4


def test_a_kept_score_of_another_prompt_or_of_none_is_refused(tmp_path):
    table, path = prompted(), tmp_path / "kept.jsonl"
    score_rows(StandInScorer(), table.rows, path, STAMP, prompts=prompts_of(table))
    other = prompts_of(table) | {"v001": "a dog"}
    with pytest.raises(EvaluationError, match="line 2: v001 had another prompt .'a cat, c0', and now 'a dog'.; choose"):
        score_rows(StandInScorer(), table.rows, path, STAMP, prompts=other)
    with pytest.raises(EvaluationError, match="line 1: v000 had another prompt .'a cat, c0', and now None"):
        score_rows(StandInScorer(), table.rows, path, STAMP)


def test_a_table_with_and_without_prompts_is_refused():
    assert prompts_of(make_table(4)) == {}
    sentence = (
        "T2VQA-DB: 2 of 4 videos have no prompt, v001 for one; scores with a prompt and without one do not compare"
    )
    with pytest.raises(EvaluationError, match=sentence):
        prompts_of(prompted(without=("v001", "v003")))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("scores.csv", "video,score,prompt\nv000,1,a cat\nv001,2,\n"),
        (
            "scores.jsonl",
            '{"video": "v000", "score": 1, "prompt": "a cat"}\n{"video": "v001", "score": 2, "prompt": null}\n',
        ),
    ],
)
def test_a_file_of_scores_with_and_without_prompts_is_refused(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    with pytest.raises(
        MosTableError, match=r"line [23]: a score without a prompt, unlike that in .*line [12]; the two"
    ):
        read_scores(tmp_path / file, prompted())
    (tmp_path / file).write_text(text.replace("v001", "a video of another set"))
    assert read_scores(tmp_path / file, prompted()).by_name == {"v000": 1.0}


def test_the_tables_tell_a_model_with_prompts_from_the_same_without():
    def evaluated(table, has_prompts):
        scores = Scores({row.name: row.mos for row in table.rows})
        model = ModelScores(model="M", trained_on=None, by_split=(scores,), has_prompts=has_prompts)
        return evaluate(table, model, "whole", EvaluationConfig(resamples=0))

    evaluations = [*evaluated(prompted(20), True), *evaluated(make_table(20), False)]
    *_, with_prompts, without = report.paper_markdown(evaluations).splitlines()
    assert with_prompts == "| M | 1.000 | 1.000 | N/A | N/A |"
    assert without == "| M, without prompt | N/A | N/A | 1.000 | 1.000 |"
    text = report.caption(evaluations, 0)
    assert "M: each video is scored against its prompt." in text
    assert "M, without prompt: the video alone, on another scale; not comparable with scores of prompts." in text
    assert {row["model"] for row in report.metric_rows(evaluations)} == {"M", "M, without prompt"}
    assert "prompt" not in report.caption(evaluated(make_table(20), None), 0)
