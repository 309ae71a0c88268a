"""Videos and images in folders: which files a run learns from, and whether they are still the same."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from diffvqa_rt.errors import TrainingError

SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv", ".y4m"),
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"),
)
"""File suffixes that count as a video or an image."""

# Of a file's beginning, and of its end.
_SAMPLED_BYTES = 2**16


def find_media(places: Sequence[Path]) -> list[Path]:
    """The videos and images in folders and below, and files as given, sorted.

    Raises:
        TrainingError: a place is not there, or none holds a video or an image.
    """
    found: set[Path] = set()
    for place in places:
        if not place.exists():
            raise TrainingError(f"{place} is not there; expected a folder of videos or images")
        inside = place.rglob("*") if place.is_dir() else [place]
        found.update(path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise TrainingError(f"{', '.join(map(str, places))}: no videos or images; expected {', '.join(SUFFIXES)}")
    return sorted(found)


def media_digest(files: Sequence[Path]) -> str:
    """SHA-256 of which files there are, by name, size, beginning and end; a run goes on only where it is the same.

    Not by all of their content: a data set has a terabyte of it.

    Raises:
        TrainingError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with open(path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(f"{path.name} {size}\n".encode("utf-8", "surrogateescape"))
                for start in (0, max(0, size - _SAMPLED_BYTES)):
                    file.seek(start)
                    digest.update(file.read(_SAMPLED_BYTES))
        except OSError as error:
            raise TrainingError(f"{path} cannot be read ({error.strerror})") from error
    return digest.hexdigest()
