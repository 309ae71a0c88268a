"""Predictions from files, and predictions that are kept while they are made."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from opinions import Result, StandInScorer
from PIL import Image

from diffvqa_rt.errors import EvaluationError, MosTableError
from diffvqa_rt.evaluation.mos_table import MosRow, MosTable
from diffvqa_rt.evaluation.scores import ScoreStamp, read_scores, score_rows
from diffvqa_rt.evaluation.shrinking import read_shrunk
from diffvqa_rt.results import ScoringFailure

STAMP = ScoreStamp(weights_sha256="w" * 8, engines_sha256="e" * 8, backend="onnx", seed=3, crops=2)


@pytest.fixture
def table(tmp_path) -> MosTable:
    rows = tuple(MosRow(name=f"v{i}", video=tmp_path / f"videos/v{i}.mp4", mos=float(i)) for i in range(4))
    return MosTable(name="mine", title="Mine", mos_range=(0.0, 4.0), rows=rows)


def test_scores_beyond_the_range_keep_their_order(table, tmp_path):
    class Beyond(StandInScorer):
        def score_many(self, sources, **options):
            yield from (Result(100 + int(path.stem[-1])) for path in sources)

    scores = score_rows(Beyond(), table.rows, tmp_path / "kept.jsonl", STAMP)
    assert list(scores.by_name.values()) == [100, 101, 102, 103]
    (tmp_path / "printed.csv").write_text("source,score,error,raw_score\nv0,100,,104.5\nv1,100,,102.5\nv2,,bad,\n")
    assert read_scores(tmp_path / "printed.csv", table).by_name == {"v0": 104.5, "v1": 102.5}
    (tmp_path / "printed.jsonl").write_text('{"source": "v0", "score": 0.0, "raw_score": -2.5}')
    assert read_scores(tmp_path / "printed.jsonl", table).by_name == {"v0": -2.5}


def test_scores_are_read_by_name_or_path_whoever_wrote_them(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "scores.csv"
    path.write_text(f"Video,Score\nv0,0.5\nvideos/v1.mp4,1.5\n{tmp_path}/videos/v2.mp4,2.5\nother.mp4,9\n")
    assert read_scores(path, table).by_name == {"v0": 0.5, "v1": 1.5, "v2": 2.5}
    path.write_text("source,score,error\nvideos/v1.mp4,1.5,\nvideos/v2.mp4,,videos/v2.mp4 is empty\n")
    scores = read_scores(path, table)
    assert (scores.by_name, scores.failures) == ({"v1": 1.5}, ("videos/v2.mp4 is empty",))
    lines = [{"source": "videos/v1.mp4", "score": 1.5, "model": "x"}, {"source": "videos/v2.mp4", "error": "bad"}]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    scores = read_scores(path, table)
    assert (scores.by_name, scores.failures) == ({"v1": 1.5}, ("bad",))


BAD_SCORES = {
    "scores.csv": {
        "video,score\nv0,high\n": "line 2: the score is 'high'; expected a number",
        "video,score\nv0,nan\n": "line 2: the score is 'nan'",
        "video,score\nv0,1\nv0,2\n": "line 3: v0 appears twice",
        "video,score\nx,1\n": "has no score for any video of Mine .one of them is v0.",
        "name,score\nv0,1\n": "line 1: expected a column 'video' or 'source'",
        "video,mos\nv0,1\n": "line 1: expected one column 'score'",
    },
    "scores.jsonl": {
        '{"video": "v0", "score": 1}\n{"video"\n': "line 2: not JSON",
        "[1]\n": "line 1: expected a JSON object",
        '{"video": "v0"}\n': "line 1: expected the keys 'video' .or 'source'. and 'score'",
        '{"video": "v0", "score": null}\n': "line 1: the score is 'None'",
        '{"video": "v0", "score": NaN}\n': "line 1: the score is 'nan'",
    },
}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in BAD_SCORES.items() for text in texts])
def test_a_malformed_score_file_is_refused_with_its_line(table, tmp_path, file, text):
    (tmp_path / file).write_text(text)
    with pytest.raises(MosTableError, match=BAD_SCORES[file][text]):
        read_scores(tmp_path / file, table)


def test_an_interrupted_run_goes_on_where_it_stopped(table, tmp_path):
    path = tmp_path / "out/kept.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_rows(StandInScorer(stops_at="v2"), table.rows, path, STAMP)
    first = path.read_bytes()
    assert [json.loads(line)["video"] for line in first.splitlines()] == ["v0", "v1"]
    # A machine that dies while it writes leaves half a line.
    path.write_bytes(first + b'{"video": "v2", "sc')
    videos = []
    scorer = StandInScorer()
    scores = score_rows(scorer, table.rows, path, STAMP, batch=2, on_video=lambda: videos.append(1))
    assert scorer.scored == ["v2", "v3"] and scorer.options == {"seed": 3, "crops": 2, "batch": 2}
    assert scores.by_name == {"v0": 0.0, "v1": 0.25, "v2": 0.5, "v3": 0.75} and scores.failures == ()
    assert len(videos) == 4
    assert path.read_bytes().startswith(first) and len(path.read_bytes().splitlines()) == 4
    again = StandInScorer()
    assert score_rows(again, table.rows, path, STAMP) == scores and again.scored == []
    assert read_scores(path, table).by_name == scores.by_name


def test_a_score_is_on_disk_before_the_next_video_is_begun(table, tmp_path):
    path = tmp_path / "kept.jsonl"
    seen = []

    class Watching(StandInScorer):
        def score_many(self, sources, **options):
            for result in super().score_many(sources, **options):
                seen.append(len(path.read_bytes().splitlines()))
                yield result

    score_rows(Watching(), table.rows, path, STAMP)
    assert seen == [0, 1, 2, 3]


def test_a_failure_is_reported_and_tried_again(table, tmp_path):
    path = tmp_path / "kept.jsonl"
    scores = score_rows(StandInScorer(fails_at="v1"), table.rows, path, STAMP)
    assert sorted(scores.by_name) == ["v0", "v2", "v3"]
    assert scores.failures == (f"{tmp_path}/videos/v1.mp4 cannot be read",)
    later = StandInScorer()
    assert len(score_rows(later, table.rows, path, STAMP).by_name) == 4 and later.scored == ["v1"]


def test_a_score_that_is_no_number_is_a_failure(table, tmp_path):
    class Diverged(StandInScorer):
        def score_many(self, sources, **options):
            return (Result(float("nan")) for _ in sources)

    scores = score_rows(Diverged(), table.rows[:1], tmp_path / "kept.jsonl", STAMP)
    assert scores.by_name == {} and scores.failures == ("v0: its score is nan",)
    assert (tmp_path / "kept.jsonl").read_bytes() == b""


def test_scores_of_other_videos_of_the_same_names_never_mix(table, tmp_path):
    """As of two tables `mos.csv`, each in a folder of its own."""
    path, rows = tmp_path / "kept.jsonl", []
    for folder, content in [("one", b"12345"), ("other", b"123")]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "v0.mp4").write_bytes(content)
        rows.append(replace(table.rows[0], video=tmp_path / folder / "v0.mp4"))
    score_rows(StandInScorer(), rows[:1], path, STAMP)
    assert score_rows(StandInScorer(), rows[:1], path, STAMP).by_name == {"v0": 0.0}
    with pytest.raises(EvaluationError, match=r"line 1: v0 was another file \(5 bytes, and now 3\); choose another"):
        score_rows(StandInScorer(), rows[1:], path, STAMP)


@pytest.mark.parametrize("field", ["weights_sha256", "engines_sha256", "backend", "seed", "crops", "decoding_version"])
def test_scores_of_other_engines_or_settings_never_mix(table, tmp_path, field):
    path = tmp_path / "kept.jsonl"
    score_rows(StandInScorer(), table.rows[:2], path, STAMP)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    entries[1][field] = "other"
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    with pytest.raises(EvaluationError, match=rf"line 2: a score with {field} other, and this run has .*--out"):
        score_rows(StandInScorer(), table.rows, path, STAMP)


def test_a_damaged_file_of_kept_scores_is_not_touched(table, tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_bytes(b"garbage\n{}")
    with pytest.raises(MosTableError, match="line 1: not JSON"):
        score_rows(StandInScorer(), table.rows, path, STAMP)
    assert path.read_bytes() == b"garbage\n{}"


def test_a_name_with_a_line_break_is_one_line(table, tmp_path):
    row = MosRow(name="a\nb", video=Path(os.devnull, "v1.mp4"), mos=1.0)
    score_rows(StandInScorer(), [row], tmp_path / "kept.jsonl", STAMP)
    again = StandInScorer()
    assert score_rows(again, [row], tmp_path / "kept.jsonl", STAMP).by_name == {"a\nb": 0.25} and again.scored == []


class SizingScorer(StandInScorer):
    """Gives a picture's pixels the score of their width, and refuses those that are 100 wide."""

    def score_many(self, sources, **options):
        for picture in sources:
            width = picture.shape[1]
            yield ScoringFailure(source="<array>", error="too odd") if width == 100 else Result(width)


def test_pictures_that_are_to_be_shrunk_are_scored_small(tmp_path):
    sizes = {"wide": (300, 150), "tall": (150, 300), "small": (60, 70), "odd": (200, 100)}
    rows = []
    for name, size in sizes.items():
        path = tmp_path / f"{name}.png"
        Image.new("RGB", size, "red").save(path)
        rows.append(MosRow(name=name, video=path, mos=1.0))
    rows.insert(1, MosRow(name="broken", video=tmp_path / "broken.png", mos=1.0))
    rows[1].video.write_text("Dear diary")
    seen: list[int] = []
    path = tmp_path / "kept.jsonl"
    scores = score_rows(SizingScorer(), rows, path, STAMP, short_side=75, on_video=lambda: seen.append(1))
    assert scores.by_name == {"wide": 150, "tall": 75, "small": 60, "odd": 150}
    assert len(scores.failures) == 1 and "broken.png is not a video" in scores.failures[0] and len(seen) == 5
    again = score_rows(SizingScorer(), rows, path, STAMP, short_side=50)
    assert again.by_name == scores.by_name, "what is kept is not scored again"
    failed = score_rows(SizingScorer(), rows[-1:], tmp_path / "other.jsonl", STAMP, short_side=50)
    assert failed.failures == (f"{rows[-1].video}: too odd",)


def test_shrinking_keeps_the_aspect_and_averages(tmp_path):
    stripes = np.zeros((600, 401, 3), np.uint8)
    stripes[::2] = 254
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    picture = read_shrunk(tmp_path / "stripes.png", 100)
    assert picture.shape == (149, 100, 3) and picture.dtype == np.uint8
    assert np.abs(picture[10:-10].astype(int) - 127).max() <= 6, "a filter without antialiasing keeps the stripes"
    assert read_shrunk(tmp_path / "stripes.png", 401).tobytes() == stripes.tobytes()
