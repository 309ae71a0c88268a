"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from diffvqa_rt.errors import TrainingError


def make_folder(path: Path) -> None:
    """Makes a folder where there is none. Raises TrainingError where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"the folder {path} cannot be made ({error.strerror}); choose another") from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file beside its place, and renames it there once it is on the disk.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"{path} cannot be written ({reason})") from error
