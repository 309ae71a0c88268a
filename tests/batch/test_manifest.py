"""The lists of a catalogue: each row is one video or one sentence."""

from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="the extra `batch` is not installed")

import pyarrow as pa
import pyarrow.parquet as pq

from diffvqa_rt.batch.manifest import Entry, read_entries
from diffvqa_rt.errors import BatchError


def entries(*places: object) -> list[Entry]:
    return list(read_entries(map(str, places)))


def write_table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_gives_its_videos_and_images_in_order(tmp_path):
    for name in ("b.mp4", "a/c.PNG", "notes.txt", ".hidden.mp4", "a/.cache/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert [entry.video for entry in entries(tmp_path)] == [str(tmp_path / "a/c.PNG"), str(tmp_path / "b.mp4")]


def test_a_pattern_gives_all_that_it_matches(tmp_path):
    for name in ("a.mp4", "b.xyz", "c.txt"):
        (tmp_path / name).touch()
    assert [Path(entry.video).name for entry in entries(tmp_path / "[ab].*")] == ["a.mp4", "b.xyz"]


def test_a_name_with_brackets_is_that_file(tmp_path):
    (tmp_path / "a [1080p].mp4").touch()
    assert [Path(entry.video).name for entry in entries(tmp_path / "a [1080p].mp4")] == ["a [1080p].mp4"]


def test_a_table_has_videos_prompts_and_ids(tmp_path):
    table = write_table(
        tmp_path / "list.csv",
        '\ufeffPrompt,VIDEO,mos,id\na cat,clips/a.mp4,3,first\n\n,/data/b.mp4,4,\n"two, cats",s3://bucket/c.mp4,5,7\n',
    )
    assert entries(table) == [
        Entry(id="first", video=f"{tmp_path}/clips/a.mp4", prompt="a cat"),
        Entry(id="/data/b.mp4", video="/data/b.mp4"),
        Entry(id="7", video="s3://bucket/c.mp4", prompt="two, cats"),
    ]


def test_a_table_may_be_parquet(tmp_path):
    table = pa.table({"video": ["a.mp4", None, "c.mp4"], "id": [1, 2, None], "prompt": ["a cat", "a dog", None]})
    pq.write_table(table, tmp_path / "list.parquet")
    first, bad, third = entries(tmp_path / "list.parquet")
    assert first == Entry(id="1", video=f"{tmp_path}/a.mp4", prompt="a cat")
    assert bad.error == f"{tmp_path}/list.parquet, row 2: names no video"
    assert third.id == third.video == f"{tmp_path}/c.mp4"


def test_a_video_with_several_prompts_is_several_entries(tmp_path):
    table = write_table(tmp_path / "list.csv", "video,prompt\na.mp4,a cat\na.mp4,a dog\na.mp4,\n")
    found = entries(table)
    assert [entry.error for entry in found] == [None] * 3
    assert len({entry.key for entry in found}) == 3


BAD_ROWS = {
    "too few cells": ("video,id\na.mp4\n", "line 2: has 1 cells, and the header 2"),
    "no video": ("video,id\n ,7\n", "line 2: names no video"),
    "the same id": ("video,id\na.mp4,7\nb.mp4,7\n", "line 3: 7 is there already"),
    "the same video": ("video\na.mp4\na.mp4\n", "line 3: "),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_a_sentence_and_the_others_go_on(tmp_path, name):
    text, sentence = BAD_ROWS[name]
    table = write_table(tmp_path / "list.csv", f"{text}{'last.mp4,' * text.count(',id')}last.mp4\n")
    found = entries(table)
    (bad,) = [entry for entry in found if entry.error is not None]
    assert sentence in bad.error and str(table) in bad.error
    assert found[-1].error is None and found[-1].video.endswith("last.mp4")


NOT_READABLE = {
    "not there": ("nothing", None, "is not there"),
    "no such table": ("list.csv", None, "list.csv is not there"),
    "no column video": ("list.csv", b"file,id\na.mp4,1\n", "has no column video, but file, id"),
    "empty": ("list.csv", b"", "has no column video, but none"),
    "not text": ("list.csv", b"video\n\xff\xfe\n", "cannot be read as a table"),
    "not parquet": ("list.parquet", b"PAR1", "cannot be read as a table"),
    "no match": ("*.mp4", None, "matches no file"),
}


@pytest.mark.parametrize("name", NOT_READABLE)
def test_a_place_that_cannot_be_read_ends_the_run_in_a_sentence(tmp_path, name):
    place, content, sentence = NOT_READABLE[name]
    if content is not None:
        (tmp_path / place).write_bytes(content)
    with pytest.raises(BatchError, match=sentence) as caught:
        entries(tmp_path / place)
    assert "\n" not in str(caught.value)


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(BatchError, match="holds no video or image"):
        entries(tmp_path)


def test_a_video_that_is_not_there_is_for_its_own_row_to_say(tmp_path):
    assert entries(tmp_path / "missing.mp4") == [Entry(id=f"{tmp_path}/missing.mp4", video=f"{tmp_path}/missing.mp4")]
