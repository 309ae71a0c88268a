"""Files that a run learns from: found in folders, and told from others."""

import pytest

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.training.media import find_media, media_digest


def test_media_are_found_below_a_folder_and_named_once(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("one.mp4", "below/two.MKV", "photo.png", "notes.txt"):
        (tmp_path / name).touch()
    found = find_media([tmp_path, tmp_path / "one.mp4"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["below/two.MKV", "one.mp4", "photo.png"]


@pytest.mark.parametrize(("name", "sentence"), [("gone", "gone is not there"), ("empty", "no videos or images")])
def test_a_place_without_media_is_one_sentence(tmp_path, name, sentence):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=sentence):
        find_media([tmp_path / name])


def test_other_files_have_another_digest(tmp_path):
    files = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in files:
        path.write_bytes(b"the same")
    assert media_digest(files) == media_digest(list(files)) != media_digest(files[:-1])


def test_another_file_of_the_same_name_and_size_has_another_digest(tmp_path):
    digests = set()
    for content in (b"a" * 100_000, b"a" * 99_999 + b"b", b"b" + b"a" * 99_999):
        (tmp_path / "a.y4m").write_bytes(content)
        digests.add(media_digest([tmp_path / "a.y4m"]))
    assert len(digests) == 3
    (tmp_path / "a.y4m").unlink()
    with pytest.raises(TrainingError, match="a.y4m cannot be read"):
        media_digest([tmp_path / "a.y4m"])
