"""The lock on a set's folder: of two runs that write there, each would remove the scenes that the other is making."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.files import FileWriteError

LOCK = "making.lock"

# The processes of a run that was killed notice within a second, on a busy machine in a little more.
_PATIENCE_SECONDS = 5.0

# Open until this process ends: what closes a file lets go of its lock.
_joined: list[IO[str]] = []


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, as the processes that join this run do, each until it ends.

    Raises:
        SyntheticSetError: another run, or a process that it left, is making the set.
        FileWriteError: the folder cannot be written.
    """
    with _open(folder) as file:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _locked(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise SyntheticSetError(
                    f"{folder} is being made by another run; wait until its processes have ended, or choose another "
                    "folder"
                )
            time.sleep(0.1)
        # What joins shares it.
        if not _locked(file, fcntl.LOCK_SH):
            raise SyntheticSetError(f"{folder} is being made by another run, which began at the same time")
        yield


def join_run(folder: Path) -> None:
    """Makes this process a part of the run that holds the lock; ends it where the run is over and another has it."""
    file = _open(folder)
    if not _locked(file, fcntl.LOCK_SH):
        os._exit(1)
    _joined.append(file)


def _open(folder: Path) -> IO[str]:
    try:
        return open(folder / LOCK, "a", encoding="utf-8")
    except OSError as error:
        raise FileWriteError(f"{folder / LOCK} cannot be written ({error.strerror})", error.errno) from error


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
