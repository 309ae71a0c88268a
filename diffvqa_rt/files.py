"""Files that are there whole or not at all, and their hashes."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from diffvqa_rt.errors import DiffVQAError

_PART = ".part"


class FileWriteError(DiffVQAError):
    """A file or folder cannot be written; `errno` is the system's reason, None where it gave none."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


def make_folder(path: Path) -> None:
    """Makes a folder where there is none. Raises FileWriteError where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileWriteError(
            f"the folder {path} cannot be made ({error.strerror}); choose another", error.errno
        ) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file beside its place, and renames it there once it is on the disk.

    Raises:
        FileWriteError: the disk is full, or the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{_PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise FileWriteError(f"{path} cannot be written ({error.strerror or error})", error.errno) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def remove_parts(folder: Path, name: str = "*") -> None:
    """Removes files that killed processes left half-written in a folder. No other process may be writing there.

    Args:
        name: of the file that they were to become, as a pattern of `glob`.
    """
    for part in folder.glob(f"{name}.[0-9]*{_PART}"):
        part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits. Raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
