"""The folder of a catalogue's scores: whole files, and each video once."""

import dataclasses
import errno
import os

import pytest

pytest.importorskip("pyarrow", reason="the extra `batch` is not installed")

import pyarrow.parquet as pq

from diffvqa_rt.batch.manifest import key_of
from diffvqa_rt.batch.output import BlockWriter, ResultsFolder, read_results, scorer_of
from diffvqa_rt.batch.schema import result_schema, table_of
from diffvqa_rt.engines import Manifest
from diffvqa_rt.errors import BatchError
from diffvqa_rt.files import FileWriteError
from diffvqa_rt.metric import Request
from diffvqa_rt.results import VideoScore


@pytest.fixture
def folder(tmp_path) -> ResultsFolder:
    return ResultsFolder(str(tmp_path / "scores"), "a" * 16)


def scored(name: str, score: float = 50.0) -> dict:
    return {"id": name, "source": f"{name}.mp4", "prompt": None, "score": score, "error": None}


def failed(name: str) -> dict:
    return {**scored(name), "score": None, "error": f"{name}.mp4 cannot be read"}


def key(name: str) -> bytes:
    return key_of(name, f"{name}.mp4", None)


def names(folder: ResultsFolder) -> list[str]:
    return sorted(row["id"] for row in read_results(folder.out))


def test_what_has_a_score_is_done(folder):
    folder.write([scored("a"), scored("b")])
    folder.write([scored("c")])
    assert folder.resume() == {key("a"), key("b"), key("c")}
    assert names(folder) == ["a", "b", "c"]


def test_a_folder_that_is_not_there_holds_nothing(folder):
    assert folder.resume() == set() and folder.scored_by_others() == set() and names(folder) == []


def test_what_failed_is_forgotten_and_tried_again(folder):
    folder.write([scored("a"), failed("b")])
    folder.write([failed("c")])
    assert folder.resume() == {key("a")}
    assert names(folder) == ["a"]


def test_a_video_that_two_runs_wrote_stays_once(folder):
    folder.write([scored("a"), scored("b")])
    folder.write([scored("b"), scored("c")])
    assert folder.resume() == {key("a"), key("b"), key("c")}
    assert names(folder) == ["a", "b", "c"]


def test_another_prompt_or_file_is_another_video(folder):
    folder.write([scored("a")])
    assert key_of("a", "a.mp4", "a cat") not in folder.resume()
    assert key_of("a", "other.mp4", None) not in folder.resume()


def test_other_engines_have_a_folder_of_their_own(folder):
    folder.write([scored("a", 10.0)])
    newer = dataclasses.replace(folder, scorer="b" * 16)
    assert newer.resume() == set() and newer.scored_by_others() == {key("a")}
    newer.write([scored("a", 20.0), scored("b")])
    assert newer.scored_by_others() == {key("a")}
    assert [row["score"] for row in read_results(folder.out) if row["id"] == "a"] == [10.0, 20.0]
    assert pq.read_table(folder.out).column("scorer").to_pylist() == ["a" * 16, "b" * 16, "b" * 16]


def test_a_file_appears_whole_or_not_at_all(folder, monkeypatch):
    folder.write([scored("a")])

    def fill_up(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(FileWriteError, match="No space left on device"):
        folder.write([scored("b")])
    assert names(folder) == ["a"]
    assert [name for _, _, files in os.walk(folder.out) for name in files if not name.endswith(".parquet")] == []


def test_what_a_killed_run_left_half_written_is_not_read(folder):
    folder.write([scored("a")])
    with open(f"{folder.place}/0123.parquet.4711.part", "wb") as part:
        part.write(b"PAR1 torn")
    assert folder.resume() == {key("a")}


def test_a_damaged_file_is_named(folder):
    folder.write([scored("a")])
    with open(f"{folder.place}/damaged.parquet", "wb") as file:
        file.write(b"PAR1")
    with pytest.raises(BatchError, match="damaged.parquet cannot be read as results"):
        folder.resume()


def test_rows_are_written_when_they_are_enough_or_have_waited(folder):
    writer = BlockWriter(folder, rows=2, seconds=1000.0)
    writer.add(scored("a"))
    assert names(folder) == []
    writer.add(scored("b"))
    assert names(folder) == ["a", "b"]
    writer.add(scored("c"))
    writer.flush()
    writer.flush()
    assert names(folder) == ["a", "b", "c"]
    BlockWriter(folder, rows=1000, seconds=0.0).add(scored("d"))
    assert names(folder) == ["a", "b", "c", "d"]


def test_the_scorer_is_of_all_that_decides_a_score(small_engines):
    manifest = Manifest.read(small_engines)

    def scorer(changed=manifest, backend="onnx", **options) -> str:
        return scorer_of(changed, backend, Request(**options))

    weights = dataclasses.replace(manifest.weights, sha256="0" * 64)
    record = manifest.backends["onnx"]
    rebuilt = dataclasses.replace(record, files=dict.fromkeys(record.files, "0" * 64))
    variants = [
        scorer(),
        scorer(seed=1),
        scorer(crops=2),
        scorer(keep_interlaced=True),
        scorer(backend="torch"),
        scorer(dataclasses.replace(manifest, weights=weights)),
        scorer(dataclasses.replace(manifest, backends={"onnx": rebuilt})),
    ]
    assert len(set(variants)) == len(variants)
    assert scorer() == scorer(dataclasses.replace(manifest, build=dataclasses.replace(manifest.build, date="2027")))


def test_a_row_has_all_of_a_score(small_engines, clip):
    from diffvqa_rt import Scorer

    with Scorer.open(small_engines) as scorer:
        result = scorer.score(clip)
    assert {field.name for field in dataclasses.fields(VideoScore)} - {"patch_maps"} < set(result_schema().names)
    given = [
        {"id": "a", "error": None, **result.as_dict()},
        {"id": "b", "source": "b.mp4", "error": "b.mp4 is missing"},
    ]
    good, bad = table_of(given).to_pylist(maps_as_pydicts="strict")
    assert good == as_lists({name: value for name, value in given[0].items() if name != "patch_maps"})
    assert {name: value for name, value in bad.items() if value is not None} == given[1]


def as_lists(value):
    if isinstance(value, dict):
        return {name: as_lists(item) for name, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, tuple) else value
