"""The stages of a pipeline, called as Ray Data and NeMo Curator call them."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from clips import make_clip

pytest.importorskip("pyarrow", reason="the extra `batch` is not installed")

import pyarrow as pa

from diffvqa_rt import Scorer
from diffvqa_rt.batch import DecodeVideos, ScoreVideos
from diffvqa_rt.batch.curator import ScoringStage
from diffvqa_rt.errors import EngineMismatchError, InputError


@pytest.fixture(scope="module")
def videos(tmp_path_factory, clip) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "small.mp4").write_bytes(make_clip(size=(320, 240)))
    (folder / "wide.mkv").write_bytes(make_clip("libx264", "matroska", size=(400, 120), frames=5))
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return [str(folder / name) for name in ("small.mp4", "broken.mp4", "wide.mkv")] + [str(clip)]


@pytest.fixture(scope="module")
def expected(small_engines, videos):
    with Scorer.open(small_engines) as scorer:
        return list(scorer.score_many(videos, seed=3))


def score(engines: Path, table: pa.Table, batch: int = 1, threads: int = 1, **options) -> list[dict]:
    decoded = DecodeVideos(engines, **options)(table)
    return ScoreVideos(engines, batch=batch, threads=threads)(decoded).to_pylist(maps_as_pydicts="strict")


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (3, 2)])
def test_scores_are_those_of_the_scorer_bit_for_bit(small_engines, videos, expected, batch, threads):
    table = pa.table({"video": videos, "number": range(4)})
    rows = score(small_engines, table, batch, threads, seed=3)
    assert [row["video"] for row in rows] == videos and [row["number"] for row in rows] == [0, 1, 2, 3]
    for row, result in zip(rows, expected, strict=True):
        values = result.as_dict()
        assert row["error"] == values.get("error") and row["score"] == values.get("score")
        if row["error"] is None:
            assert row["result"]["frame_scores"] == list(values["frame_scores"])
            assert row["result"]["frame_weights"] == list(values["frame_weights"])
            assert row["result"]["engines_sha256"] == values["engines_sha256"]
    assert sum(row["error"] is not None for row in rows) == 1


def test_a_video_may_be_bytes(small_engines, videos, expected):
    (row,) = score(small_engines, pa.table({"video": [Path(videos[0]).read_bytes()]}), seed=3)
    assert row["score"] == expected[0].score and row["result"]["source"] == "<bytes>"


def test_an_object_is_scored_as_the_file(small_engines, videos, expected, bucket):
    from diffvqa_rt.batch.objects import write_object

    write_object(f"{bucket}/small.mp4", Path(videos[0]).read_bytes())
    good, missing = score(small_engines, pa.table({"video": [f"{bucket}/small.mp4", f"{bucket}/missing.mp4"]}), seed=3)
    assert good["score"] == expected[0].score and good["result"]["source"] == f"{bucket}/small.mp4"
    assert missing["error"] == f"{bucket}/missing.mp4 is not there; check the name"


def test_prompts_stand_beside_their_videos(prompted_engines, videos):
    with Scorer.open(prompted_engines) as scorer:
        with_prompt, without = scorer.score(videos[0], prompt="a cat"), scorer.score(videos[0])
    rows = score(prompted_engines, pa.table({"video": videos[:1] * 3, "prompt": ["a cat", None, " "]}), batch=2)
    assert [row["score"] for row in rows] == [with_prompt.score, without.score, None]
    assert rows[0]["result"]["parts"] == with_prompt.parts and rows[0]["result"]["prompt"] == "a cat"
    assert "prompt is blank" in rows[2]["error"]


def test_a_prompt_of_a_metric_without_prompts_is_that_rows_error(small_engines, videos):
    (row,) = score(small_engines, pa.table({"video": videos[:1], "prompt": ["a cat"]}))
    assert "DiffVQA does not take it" in row["error"]


def test_a_request_that_the_metric_does_not_take_is_refused_at_once(small_engines):
    with pytest.raises(InputError, match="frames is 4"):
        DecodeVideos(small_engines, frames=4)


def test_other_engines_than_the_runs_are_refused(small_engines):
    with pytest.raises(EngineMismatchError, match="copy the same folder to every node"):
        ScoreVideos(small_engines, expected_sha256="0" * 64)


@dataclasses.dataclass
class Clip:
    """A cut-out clip of Curator's, as far as the stage sees it."""

    buffer: bytes | None
    errors: dict[str, str] = dataclasses.field(default_factory=dict)


def video_task(path: str, *clips: Clip) -> SimpleNamespace:
    video = SimpleNamespace(input_video=Path(path), source_bytes=None, clips=list(clips), errors={})
    return SimpleNamespace(task_id=path, data=video, _metadata={})


def test_curators_stage_scores_clips_and_whole_videos(small_engines, videos, expected):
    stage = ScoringStage(str(small_engines), seed=3)
    stage.setup()
    cut = video_task("cut.mp4", Clip(Path(videos[0]).read_bytes()), Clip(b"no video at all"), Clip(None))
    whole, broken = video_task(videos[3]), video_task(videos[1])
    assert stage.process_batch([cut, whole, broken]) == [cut, whole, broken]
    stage.teardown()
    assert cut.data.clips[0].diffvqa.score == expected[0].score and not cut.data.clips[0].errors
    assert cut.data.clips[1].diffvqa is None and "is not a video" in cut.data.clips[1].errors["diffvqa"]
    assert not cut.data.clips[2].errors
    assert whole.data.diffvqa.score == expected[3].score
    assert broken.data.errors["diffvqa"] == expected[1].error


def test_curators_stage_is_one_of_its_stages(small_engines, videos, expected):
    base = pytest.importorskip("nemo_curator.stages.base", reason="nemo-curator is not installed")

    class Stage(ScoringStage, base.ProcessingStage):
        pass

    stage = Stage(str(small_engines), seed=3).with_(batch_size=2)
    assert stage.supports_batch_processing() and stage.batch_size == 2
    stage.setup()
    (task,) = stage.process_batch([video_task(videos[0])])
    assert task.data.diffvqa.score == expected[0].score
