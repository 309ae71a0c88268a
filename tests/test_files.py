"""Files that are there whole or not at all."""

import errno
import pickle

import pytest

from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.files import FileWriteError, make_folder, remove_parts, sha256_of, write_whole

TEXT = "whole"


def write(path):
    path.write_text(TEXT)


def test_a_file_is_in_its_folder_whole_and_nothing_is_beside_it(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_whole(path, write)
    write_whole(path, lambda part: part.write_text(TEXT * 2))
    assert path.read_text() == TEXT * 2 and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_a_file_that_is_not_finished_leaves_the_one_before_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "file.txt"
    write_whole(path, write)

    def fail(part):
        part.write_text("ha")
        raise error

    with pytest.raises(FileWriteError if isinstance(error, OSError) else type(error)):
        write_whole(path, fail)
    assert path.read_text() == TEXT and list(tmp_path.iterdir()) == [path]


def test_a_refusal_is_one_sentence_with_the_systems_reason(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiffVQAError, match=r"\A.*file/below cannot be written \(.+\)\Z"):
        write_whole(tmp_path / "file" / "below", write)
    with pytest.raises(
        FileWriteError, match=r"\Athe folder .*file/below cannot be made \(.+\); choose another\Z"
    ) as told:
        make_folder(tmp_path / "file" / "below")
    # As a process that makes clips hands it on.
    assert pickle.loads(pickle.dumps(told.value)).errno == told.value.errno == errno.ENOTDIR


def test_what_killed_processes_left_is_removed(tmp_path):
    for name in ("clip.mp4", "clip.mp4.123.part", "other.mp4.45.part", "download.part"):
        (tmp_path / name).touch()
    remove_parts(tmp_path, "clip.mp4")
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "other.mp4.45.part", "download.part"}
    remove_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "download.part"}


def test_a_files_hash_is_that_of_its_content(tmp_path):
    write(tmp_path / "file")
    assert sha256_of(tmp_path / "file") == "5d5766cf2d78701614200418ee1450690d9af12c84d52545e4802f001ad53099"
