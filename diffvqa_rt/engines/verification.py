"""Nothing reaches a runtime before it is known to be what the manifest lists: files, and what ONNX files point to."""

import hashlib
import mmap
import shutil
from collections.abc import Iterator, Set
from pathlib import Path, PurePosixPath
from typing import Any

from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.specs import MANIFEST_NAME


def unlisted_files(folder: Path, listed: Set[str]) -> list[Path]:
    """The files that lie in the folder beside the manifest and the listed files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return [path for path in paths if path.relative_to(folder).as_posix() not in {MANIFEST_NAME, *listed}]


def read_verified(folder: Path, name: str, sha256: str) -> bytes:
    """A listed file's bytes, read once and checked before anything else sees them.

    Raises EngineMismatchError if the file is missing, a link, outside the folder, or not what the manifest says.
    """
    path = _path_of(folder, name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path) from error
    _check_hash(path, hashlib.sha256(content), sha256)
    return content


def map_verified(folder: Path, name: str, sha256: str) -> mmap.mmap:
    """A listed file in memory without a copy of it, for weights of gigabytes; close it after use.

    What is checked is what is read later, unless somebody rewrites the file in place in between: for weights, not for
    code. Raises EngineMismatchError as `read_verified`, and for an empty file.
    """
    path = _path_of(folder, name)
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise _unreadable(path) from error
    try:
        _check_hash(path, hashlib.sha256(content), sha256)
    except EngineMismatchError:
        content.close()
        raise
    return content


def copy_verified(folder: Path, name: str, sha256: str, target: Path) -> None:
    """Copies a listed file to where only this user writes, for a runtime that takes paths, and checks the copy.

    Raises EngineMismatchError as `read_verified`, and where there is no room for the copy.
    """
    path = _path_of(folder, name)
    try:
        source = path.open("rb")
    except OSError as error:
        raise _unreadable(path) from error
    with source:
        try:
            with target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 24)
        except OSError as error:
            raise EngineMismatchError(
                f"{path} cannot be copied to {target.parent} ({error.strerror}); make room there, or name another "
                "folder in TMPDIR"
            ) from error
    with target.open("rb") as copy:
        _check_hash(path, hashlib.file_digest(copy, "sha256"), sha256)


def _path_of(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
        raise EngineMismatchError(f"{path} is a link or lies outside its engine folder; build the engines again")
    return path


def _unreadable(path: Path) -> EngineMismatchError:
    return EngineMismatchError(f"{path}, listed in {MANIFEST_NAME}, cannot be read; build the engines again")


def _check_hash(path: Path, digest: Any, sha256: str) -> None:
    found = digest.hexdigest()
    if found != sha256:
        raise EngineMismatchError(
            f"{path} was changed after it was built: its SHA-256 is {found[:12]}…, {MANIFEST_NAME} says "
            f"{sha256[:12]}…; build the engines again"
        )


# The fields of ONNX's messages on the way to a tensor's place of storage: number → the message that is in it
# (onnx.proto, IR version 13).
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor"},
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2
_METADATA = 14
_MAX_DEPTH = 100  # protobuf's own


def external_data_files(model: bytes) -> set[str]:
    """The files that an ONNX model's tensors are stored in, as the model names them.

    ONNX Runtime resolves them against the working directory when it gets a model as bytes, so they are looked at here,
    where the runtime path has no ONNX library, before it does.

    Raises:
        ValueError: not a serialised ONNX model.
    """
    return set(_locations(memoryview(model), "model", 0))


def listed_data_files(model: bytes, file: str, folder: Path, listed: Set[str]) -> dict[str, str]:
    """The weights' files of the engine file `file`, an ONNX model: the model's names for it → paths in the folder.

    Raises EngineMismatchError unless each is a listed file in the model's own folder.
    """
    try:
        locations = external_data_files(model)
    except ValueError as error:
        raise EngineMismatchError(f"{folder / file} is {error}; build the engines again") from error
    found = {location: (PurePosixPath(file).parent / location).as_posix() for location in locations}
    for location, data_file in found.items():
        if PurePosixPath(location).name != location or data_file not in listed:
            raise EngineMismatchError(
                f"{folder / file} keeps weights in {location!r}, which {MANIFEST_NAME} does not list beside it; "
                "build the engines again"
            )
    return found


def onnx_metadata(model: bytes) -> dict[str, str]:
    """A model's `metadata_props`. Raises ValueError as `external_data_files`."""
    entries = [content for number, content in _length_delimited(memoryview(model)) if number == _METADATA]
    return dict(_entry(content) for content in entries)


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise _no_model()
    for number, content in _length_delimited(message):
        inner = _FIELDS[kind].get(number)
        if inner == "entry":
            key, value = _entry(content)
            if key == "location":
                yield value
        elif inner is not None:
            yield from _locations(content, inner, depth + 1)


def _entry(message: memoryview) -> tuple[str, str]:
    fields = dict(_length_delimited(message))
    return bytes(fields.get(_KEY, b"")).decode(), bytes(fields.get(_VALUE, b"")).decode()


def _length_delimited(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, content) of a protobuf message's strings, bytes and messages.

    Stricter than protobuf's parsers, which cut a tag to 32 bits: what one of them would read otherwise is refused.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag >> 32:
            raise _no_model()
        if wire_type == 0:
            _, position = _varint(message, position)
            continue
        length = {1: 8, 5: 4}.get(wire_type)
        if wire_type == 2:
            length, position = _varint(message, position)
        if length is None or position + length > len(message):
            raise _no_model()
        if wire_type == 2:
            yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 1 << 64:
            return value, position
        shift += 7
    raise _no_model()


def _no_model() -> ValueError:
    return ValueError("not a serialised ONNX model")
