"""Files by path or by URL (`s3://`, `gs://`, `file://`, …, through fsspec); what goes wrong is one sentence."""

import contextlib
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from diffvqa_rt.errors import BatchError
from diffvqa_rt.files import write_whole
from diffvqa_rt.video.container import OpenFile

_CHUNK_BYTES = 8 << 20
_LOCAL = "file://"


def is_url(name: str) -> bool:
    """True of a URL that is not of this machine's files."""
    return "://" in name and not name.startswith(_LOCAL)


def local_path(name: str) -> str:
    """The path that a local name or a `file://` URL stands for."""
    return name.removeprefix(_LOCAL)


def files_below(folder: str) -> list[str]:
    """The files in a folder and below, sorted, hidden ones left out; none where it is not there."""
    if not is_url(folder):
        found = glob.iglob(os.path.join(glob.escape(local_path(folder)), "**", "*"), recursive=True)
        return sorted(path for path in found if os.path.isfile(path))
    with explained(folder, "listed"):
        system, path = _system(folder)
        names = (system.unstrip_protocol(found) for found in system.find(path))
        return sorted(name for name in names if not _is_hidden(name, folder))
    raise AssertionError


def files_like(pattern: str) -> list[str]:
    """The files that a pattern with `*`, `**`, `?` or `[…]` stands for, sorted."""
    if not is_url(pattern):
        return sorted(path for path in glob.iglob(local_path(pattern), recursive=True) if os.path.isfile(path))
    with explained(pattern, "listed"):
        system, path = _system(pattern)
        return sorted(system.unstrip_protocol(found) for found in system.glob(path))
    raise AssertionError


@contextlib.contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """A file or an object, open for reading. Raises BatchError, within the block too."""
    with explained(name, "read"):
        if is_url(name):
            system, path = _system(name)
            # Ranges, one after another: an object of any size passes through a few megabytes.
            with system.open(path, "rb", block_size=_CHUNK_BYTES, cache_type="readahead") as file:
                yield file
        else:
            with open(local_path(name), "rb") as file:
                yield file


@contextlib.contextmanager
def decodable(name: str) -> Iterator[str | OpenFile]:
    """A video as a decoder takes it: a path as it is; of an object a copy without a name, which goes with the block.

    The copy is whole: the times of all its frames are in its packets, and a decoder reads those once and some twice.

    Raises:
        BatchError: the object cannot be read, or the copy does not fit into the folder for temporary files.
    """
    if not is_url(name):
        yield local_path(name)
        return
    with tempfile.TemporaryFile() as copy:
        with opened(name) as file, _room_for_a_copy(name):
            shutil.copyfileobj(file, copy, _CHUNK_BYTES)
            copy.flush()
        yield OpenFile(name, copy)


def write_object(name: str, content: bytes) -> None:
    """Writes a file that is there whole or not at all: renamed into place here, put in one piece where objects are.

    Raises:
        FileWriteError, BatchError: it cannot be written.
    """
    if not is_url(name):
        write_whole(Path(local_path(name)), lambda part: part.write_bytes(content))
        return
    with explained(name, "written"):
        system, path = _system(name)
        system.pipe_file(path, content)


def remove_object(name: str) -> None:
    """Removes a file. Raises BatchError where that cannot be done."""
    with explained(name, "removed"):
        if is_url(name):
            system, path = _system(name)
            system.rm_file(path)
        else:
            os.unlink(local_path(name))


def folders_in(folder: str) -> list[str]:
    """The names of the folders in a folder, sorted; none where it is not there."""
    with explained(folder, "listed"):
        if not is_url(folder):
            place = Path(local_path(folder))
            return sorted(path.name for path in place.iterdir() if path.is_dir()) if place.exists() else []
        system, path = _system(folder)
        try:
            found = system.ls(path, detail=True)
        except FileNotFoundError:  # asking whether it is there would call one without rights absent
            return []
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory")
    raise AssertionError


@contextlib.contextmanager
def explained(name: str, done: str) -> Iterator[None]:
    """Turns whatever a store's client raises into a BatchError: a sentence with the name, and what to look at."""
    try:
        yield
    except BatchError:
        raise
    except FileNotFoundError as error:
        raise BatchError(f"{name} is not there; check the name") from error
    except PermissionError as error:
        raise BatchError(f"{name} may not be {done} ({_reason(error)}); check the rights") from error
    except ImportError as error:
        raise BatchError(f"{name} needs a package for such URLs ({error})") from error
    except Exception as error:  # stores' clients raise what they like
        raise BatchError(f"{name} cannot be {done} ({_reason(error)})") from error


@contextlib.contextmanager
def _room_for_a_copy(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise BatchError(
            f"{name} does not fit into {tempfile.gettempdir()} ({error.strerror}); free some of it, or set TMPDIR"
        ) from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _system(url: str) -> tuple[Any, str]:
    """The store of a URL, and the path in it; listings are asked for anew, since others write."""
    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return system, path


def _is_hidden(name: str, folder: str) -> bool:
    return any(part.startswith(".") for part in name.removeprefix(folder).split("/"))
