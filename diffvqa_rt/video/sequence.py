"""A folder of pictures as one video: its names tell the order, and only the sampled pictures are read.

What is open goes to the decoder's process as a file does. Bytes are never a folder, so no stranger's request is one.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video.container import OpenFile, open_source
from diffvqa_rt.video.sampled import SampledFrames, indices_at_centres
from diffvqa_rt.video.stills import declared_size, sample_picture_of_sequence

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".jp2", ".avif", ".heic"),
)
"""The ends of names that are a sequence's pictures; other files beside them, and hidden ones, are passed over."""

_NUMBER = re.compile("[0-9]+")


@dataclass(frozen=True, slots=True)
class OpenFolder(os.PathLike[str]):
    """A folder that is open, and what results and messages are to call it; a path for whoever asks for the name."""

    name: str
    number: int

    def __fspath__(self) -> str:
        return self.name

    def fileno(self) -> int:
        return self.number


def is_folder(source: str | os.PathLike[Any] | bytes) -> bool:
    """True of a folder's path; bytes are a file's content."""
    return not isinstance(source, bytes | OpenFile) and os.path.isdir(source)


@contextmanager
def open_folder(source: str | os.PathLike[Any] | bytes) -> Iterator[OpenFolder | None]:
    """The folder that a source is the path of; None where it is none.

    Raises:
        VideoDecodeError: it cannot be read.
    """
    if isinstance(source, OpenFolder):
        yield source
        return
    if not is_folder(source):
        yield None
        return
    name = os.fsdecode(source)
    number = _opened(name, name, os.O_DIRECTORY)
    try:
        yield OpenFolder(name, number)
    finally:
        os.close(number)


def sample_sequence(folder: OpenFolder, count: int) -> SampledFrames:
    """The frames that `sample_frames` promises of a folder's pictures, which count as one frame a second.

    Raises:
        VideoDecodeError: there is no picture, they are not one sequence, or a sampled one cannot be decoded.
    """
    pictures = _pictures(folder)
    chosen = indices_at_centres(len(pictures), count)
    samples = {index: _sample(folder, pictures[index]) for index in dict.fromkeys(chosen)}
    info = dataclasses.replace(
        samples[chosen[0]].info,
        frame_count=len(pictures),
        duration_seconds=float(len(pictures)),
        decoded_frames=len(samples),
        corrupt_frames=sum(sample.info.corrupt_frames for sample in samples.values()),
    )
    return SampledFrames(
        frames=tuple(samples[index].frames[0] for index in chosen),
        timestamps_seconds=tuple(float(index) for index in chosen),
        info=info,
        warnings=tuple(dict.fromkeys(warning for sample in samples.values() for warning in sample.warnings)),
    )


def declared_sequence(folder: OpenFolder, count: int) -> tuple[int, int]:
    """The most pixels that a sampled picture declares, and the number of all pictures.

    Raises:
        VideoDecodeError: as `sample_sequence`, before anything is decoded.
    """
    pictures = _pictures(folder)
    most = 0
    for index in dict.fromkeys(indices_at_centres(len(pictures), count)):
        with _open_picture(folder, pictures[index]) as (name, file):
            most = max(most, (declared_size(name, file) or (0, 0))[0])
    return most, len(pictures)


def _pictures(folder: OpenFolder) -> list[str]:
    """The names of a folder's pictures by the numbers in them."""
    try:
        # Whoever shares the open folder may have read on in it.
        os.lseek(folder.number, 0, os.SEEK_SET)
        with os.scandir(folder.number) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.lower().endswith(SUFFIXES) and entry.name[0] != "." and not entry.is_dir()
            ]
    except OSError as error:
        raise _unreadable(folder.name, error) from error
    if not names:
        raise VideoDecodeError(
            f"{folder.name} is a folder without pictures of its own ({' '.join(SUFFIXES)}); give the folder of one "
            "video's frames, or the files in it one by one"
        )
    return _in_order(folder.name, names)


def _in_order(folder: str, names: list[str]) -> list[str]:
    """The names by the number that counts the frames: the first one that is not the same in all of them."""
    numbers = {name: tuple(map(int, _NUMBER.findall(_stem(name)))) for name in names}
    names = sorted(names, key=lambda name: (numbers[name], name))
    strangers = [name for name in names if _form(name) != _form(names[0])]
    counts = next((own for own in zip(*numbers.values(), strict=False) if len(set(own)) > 1), (0,))
    if strangers or len(set(counts)) < len(names):
        other = (strangers or names)[-1]
        raise VideoDecodeError(
            f"{folder} is not one sequence of pictures ({names[0]} and {other} are in it): the names must be alike but "
            "for a number, and each picture must have its own; give each sequence a folder of its own"
        )
    return names


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _form(name: str) -> tuple[str, str]:
    """The name without its numbers."""
    stem, suffix = os.path.splitext(name)
    return _NUMBER.sub("0", stem), suffix.lower()


def _sample(folder: OpenFolder, picture: str) -> SampledFrames:
    with _open_picture(folder, picture) as (name, file):
        return sample_picture_of_sequence(name, file)


@contextmanager
def _open_picture(folder: OpenFolder, picture: str) -> Iterator[tuple[str, BinaryIO]]:
    """The name and the bytes of one of the pictures."""
    name = os.path.join(folder.name, picture)
    with (
        os.fdopen(_opened(name, picture, 0, folder.number), "rb") as file,
        open_source(OpenFile(name, file)) as opened,
    ):
        yield opened


def _opened(name: str, path: str, flags: int, folder: int | None = None) -> int:
    """The number of what is opened to be read, looked up in an open folder."""
    try:
        return os.open(path, os.O_RDONLY | flags, dir_fd=folder)
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> VideoDecodeError:
    return VideoDecodeError(f"{name} cannot be read ({error.strerror or error}); check that it is there and readable")
