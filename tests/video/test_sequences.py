"""A folder of pictures is a video, whose names tell the order."""

import os
from pathlib import Path

import numpy as np
import pytest
from pictures import animation, distance, encoded, picture
from PIL import Image

from diffvqa_rt.errors import ScoreWarning, VideoDecodeError
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.sequence import declared_sequence, open_folder

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP"}
FRAMES = [picture(index) for index in range(12)]


def folder_of(folder: Path, images: list[Image.Image], name: str = "{:05}.png") -> Path:
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(images):
        file_format = FORMATS[name.rpartition(".")[2].lower()]
        (folder / name.format(index)).write_bytes(encoded(image, file_format))
    return folder


@pytest.mark.parametrize("count", [1, 4, 12, 30])
def test_a_folder_is_the_array_of_its_pictures(tmp_path: Path, count: int) -> None:
    sampled = sample_frames(folder_of(tmp_path, FRAMES), count)
    expected = sample_frames(np.stack(FRAMES), count)
    for frame, own in zip(sampled.frames, expected.frames, strict=True):
        np.testing.assert_array_equal(frame, own)
    assert sampled.timestamps_seconds == expected.timestamps_seconds
    info = sampled.info
    assert (info.frame_count, info.duration_seconds, info.frame_rate_hz) == (12, 12.0, None)
    assert (info.decoder, info.codec, info.decoded_frames) == ("pillow", "png", min(count, 12))
    assert sampled.warnings == ()


@pytest.mark.parametrize(
    "name",
    ["{}.png", "{:05}.PNG", "frame_{}.jpg", "frame-{}.webp", "v2 seed 7 ({}).bmp", "{}_0.04.png", "frame{}of12.png"],
)
def test_numbers_order_the_pictures(tmp_path: Path, name: str) -> None:
    sampled = sample_frames(folder_of(tmp_path, FRAMES, name), 12)
    for index, frame in enumerate(sampled.frames):
        (alone,) = sample_frames(tmp_path / name.format(index), 1).frames
        np.testing.assert_array_equal(frame, alone)


def test_a_second_number_may_be_a_time(tmp_path: Path) -> None:
    for index, image in enumerate(FRAMES):
        image.save(tmp_path / f"frame_{index}_at_{index / 24:.3f}.png")
    sampled = sample_frames(tmp_path, 12)
    np.testing.assert_array_equal(np.stack(sampled.frames), np.stack(FRAMES))


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    folder_of(tmp_path, FRAMES)
    for name in ("prompt.txt", "metadata.json", ".DS_Store", "Thumbs.db", "._00003.png", "sample.mp4", "grid.gif"):
        (tmp_path / name).write_bytes(b"nothing")
    folder_of(tmp_path / "thumbs", FRAMES[:3])
    folder_of(tmp_path / "99999.png", FRAMES[:3])
    assert sample_frames(tmp_path, 3).info.frame_count == 12


def test_only_sampled_pictures_are_read(tmp_path: Path) -> None:
    for index in range(1000):
        (tmp_path / f"{index}.png").touch()
    folder_of(tmp_path, FRAMES[:1], "250.png")
    folder_of(tmp_path, FRAMES[1:2], "750.png")
    sampled = sample_frames(tmp_path, 2)
    np.testing.assert_array_equal(np.stack(sampled.frames), np.stack(FRAMES[:2]))
    assert sampled.timestamps_seconds == (250.0, 750.0)
    with pytest.raises(VideoDecodeError, match=rf"^{tmp_path}/500\.png is empty \(0 bytes\)"):
        sample_frames(tmp_path, 1)


def test_one_picture_is_a_sequence_of_one(tmp_path: Path) -> None:
    sampled = sample_frames(folder_of(tmp_path, FRAMES[:1], "sample.png"), 3)
    assert distance(sampled, FRAMES[0]) == 0
    assert (sampled.timestamps_seconds, sampled.info.frame_count) == ((0.0, 0.0, 0.0), 1)


def test_each_picture_has_its_own_size(tmp_path: Path) -> None:
    sampled = sample_frames(folder_of(tmp_path, [FRAMES[0], picture(1, 64, 20)]), 2)
    assert [frame.shape for frame in sampled.frames] == [(30, 40, 3), (20, 64, 3)]
    assert (sampled.info.width, sampled.info.height) == (40, 30)


def test_a_transparent_sequence_is_over_white_and_says_so(tmp_path: Path) -> None:
    clear = [Image.new("RGBA", (40, 30), (200, 0, 100, opacity)) for opacity in (255, 0, 51)]
    sampled = sample_frames(folder_of(tmp_path, clear), 3)
    assert [tuple(frame[0, 0]) for frame in sampled.frames] == [(200, 0, 100), (255, 255, 255), (244, 204, 224)]
    (warning,) = sampled.warnings
    assert warning == ScoreWarning("transparency-over-white", "where it is transparent, it is scored over white")
    (opaque,) = sample_frames(folder_of(tmp_path / "opaque", clear[:1]), 1).frames
    assert tuple(opaque[0, 0]) == (200, 0, 100)


def test_an_open_folder_is_read_from_its_start(tmp_path: Path) -> None:
    """A decoder's process that ends on the way has read on in the folder that the next one gets."""
    with open_folder(folder_of(tmp_path, FRAMES)) as folder:
        assert folder is not None
        child = os.fork()
        if child == 0:
            entries = os.scandir(folder.number)  # closed, it would be rewound
            next(entries)
            os._exit(0)
        os.waitpid(child, 0)
        assert declared_sequence(folder, 2) == (40 * 30, 12)


REFUSED = {
    "no picture": ([], r"is a folder without pictures of its own \(\.png .*\); give the folder of one video's frames"),
    "folders alone": (["0001/00000.png"], "is a folder without pictures of its own"),
    "videos": (["a.mp4", "b.mp4"], "is a folder without pictures of its own"),
    "two names": (
        ["a_1.png", "a_2.png", "b_1.png"],
        r"is not one sequence of pictures \(a_1.png and b_1.png are in it\)",
    ),
    "two formats": (["1.png", "2.jpg"], r"is not one sequence of pictures \(1.png and 2.jpg"),
    "a mask beside each": (["1.png", "1_mask.png", "2.png"], "is not one sequence"),
    "no numbers": (["first.png", "last.png"], "is not one sequence"),
    "a number twice": (["1.png", "01.png", "2.png"], "is not one sequence"),
    "samples and frames": (["s0_f0.png", "s0_f1.png", "s1_f0.png"], r"is not one sequence .*s0_f0.png and s1_f0.png"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_one_sequence_is_refused(tmp_path: Path, case: str) -> None:
    names, sentence = REFUSED[case]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(FRAMES[0], "PNG"))
    with pytest.raises(VideoDecodeError, match=f"^{tmp_path} {sentence}"):
        sample_frames(tmp_path, 2)


BROKEN = {
    "an animation": (
        animation("WEBP", [100, 100]),
        "is not a still picture, as those of a folder must be; take it out",
    ),
    "text": (b"Dear diary", "is not a still picture"),
    "half a picture": (encoded(FRAMES[0], "PNG")[:90], "is a PNG picture that breaks off"),
    "nothing": (b"", r"is empty \(0 bytes\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_sampled_picture_that_is_none_is_named(tmp_path: Path, case: str) -> None:
    content, sentence = BROKEN[case]
    (folder_of(tmp_path, FRAMES) / "00003.png").write_bytes(content)
    with pytest.raises(VideoDecodeError, match=f"^{tmp_path}/00003.png {sentence}"):
        sample_frames(tmp_path, 12)


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.png").symlink_to(tmp_path / "gone")
    with pytest.raises(VideoDecodeError, match=f"^{tmp_path}/1.png cannot be read .No such file or directory.; check"):
        sample_frames(tmp_path, 1)
