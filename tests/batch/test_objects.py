"""Objects of a store that speaks S3, from a real server; and what goes wrong there, in a sentence."""

import errno
import json
import os
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="the extra `batch` is not installed")

import fsspec

from diffvqa_rt.batch import objects
from diffvqa_rt.batch.manifest import read_entries
from diffvqa_rt.batch.objects import decodable, files_below, files_like, opened, write_object
from diffvqa_rt.batch.output import ResultsFolder, read_results
from diffvqa_rt.errors import BatchError


def read(name: str) -> bytes:
    with opened(name) as file:
        return file.read()


def test_objects_are_written_listed_and_read(bucket):
    for name in ("b.mp4", "a/c.mp4", "a/notes.txt", "a/.hidden/d.mp4"):
        write_object(f"{bucket}/clips/{name}", name.encode())
    assert files_below(f"{bucket}/clips/") == [f"{bucket}/clips/{name}" for name in ("a/c.mp4", "a/notes.txt", "b.mp4")]
    assert files_like(f"{bucket}/clips/**/*.mp4")[-1] == f"{bucket}/clips/b.mp4"
    assert [entry.video for entry in read_entries([f"{bucket}/clips/"])] == [
        f"{bucket}/clips/a/c.mp4",
        f"{bucket}/clips/b.mp4",
    ]
    assert read(f"{bucket}/clips/a/c.mp4") == b"a/c.mp4"


def test_a_table_in_a_bucket_names_its_neighbours(bucket):
    write_object(f"{bucket}/lists/list.csv", b"video\nclips/a.mp4\ns3://other/b.mp4\n")
    videos = [entry.video for entry in read_entries([f"{bucket}/lists/list.csv"])]
    assert videos == [f"{bucket}/lists/clips/a.mp4", "s3://other/b.mp4"]


def test_scores_in_a_bucket_are_resumed_from(bucket):
    folder = ResultsFolder(f"{bucket}/scores", "a" * 16)
    assert folder.resume() == set() == folder.scored_by_others()
    row = {"id": "a", "source": "a.mp4", "prompt": None, "score": 50.0, "error": None}
    folder.write([row, {**row, "id": "b", "error": "b.mp4 is not there"}])
    assert len(folder.resume()) == 1
    assert [row["id"] for row in read_results(f"{bucket}/scores")] == ["a"]
    assert len(ResultsFolder(f"{bucket}/scores", "b" * 16).scored_by_others()) == 1


def test_a_large_object_passes_in_pieces(bucket, monkeypatch):
    content = os.urandom(3 << 20)
    write_object(f"{bucket}/large.mp4", content)
    monkeypatch.setattr(objects, "_CHUNK_BYTES", 1 << 20)
    with decodable(f"{bucket}/large.mp4") as source:
        assert os.fspath(source) == f"{bucket}/large.mp4"
        source.file.seek(0)
        assert source.file.read() == content


def test_a_local_file_stays_where_it_is(tmp_path):
    for name in (f"{tmp_path}/a.mp4", f"file://{tmp_path}/a.mp4"):
        with decodable(name) as source:
            assert source == f"{tmp_path}/a.mp4"


def test_what_is_not_there_is_named(bucket):
    with pytest.raises(BatchError, match=f"{bucket}/nothing.mp4 is not there"):
        read(f"{bucket}/nothing.mp4")
    with pytest.raises(BatchError, match="s3://no-such-bucket/a.mp4 is not there"):
        read("s3://no-such-bucket/a.mp4")
    with pytest.raises(BatchError, match="/scores/a.parquet is not there"):
        write_object("s3://no-such-bucket/scores/a.parquet", b"")


def test_a_store_that_nothing_speaks_to_is_a_sentence():
    with pytest.raises(BatchError, match="gopher://host/a.mp4 cannot be read") as caught:
        read("gopher://host/a.mp4")
    assert "\n" not in str(caught.value)


def test_a_bucket_without_rights_is_a_sentence(bucket, s3_endpoint, monkeypatch):
    write_object(f"{bucket}/a.mp4", b"content")
    _refuse_strangers(s3_endpoint, True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    try:
        for act in (
            lambda: read(f"{bucket}/a.mp4"),
            lambda: write_object(f"{bucket}/b.mp4", b""),
            lambda: files_below(f"{bucket}/"),
            lambda: ResultsFolder(bucket, "a" * 16).scored_by_others(),
        ):
            with pytest.raises(BatchError, match="may not be (read|written|listed) .*; check the rights"):
                act()
    finally:
        _refuse_strangers(s3_endpoint, False)


def _refuse_strangers(endpoint: str, is_strict: bool) -> None:
    """Has moto ask for rights from now on, or not at all."""
    count = b"0" if is_strict else json.dumps(10**9).encode()
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", count, headers, method="POST")
    urllib.request.urlopen(request).close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # which knows the rights of before


def test_a_copy_that_does_not_fit_is_a_sentence(bucket, monkeypatch):
    write_object(f"{bucket}/a.mp4", b"content")

    def fill_up(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(objects.shutil, "copyfileobj", fill_up)
    with (
        pytest.raises(BatchError, match="a.mp4 does not fit into .*No space left on device"),
        decodable(f"{bucket}/a.mp4"),
    ):
        pass


def test_a_local_path_that_may_not_be_read_is_a_sentence(tmp_path):
    with pytest.raises(BatchError, match="cannot be read"):
        read(str(tmp_path))
    with pytest.raises(BatchError, match="is not there"):
        read(str(tmp_path / "missing"))
    assert files_below(str(Path(tmp_path) / "missing")) == []
