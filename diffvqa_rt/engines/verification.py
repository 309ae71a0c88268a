"""Nothing reaches a runtime before it is known to be what the manifest lists: files, and what ONNX files point to."""

import hashlib
import mmap
from collections.abc import Iterator, Set
from pathlib import Path

from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.specs import MANIFEST_NAME


def unlisted_files(folder: Path, listed: Set[str]) -> list[Path]:
    """What lies in the folder beside the manifest and the listed files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return [path for path in paths if path.relative_to(folder).as_posix() not in {MANIFEST_NAME, *listed}]


def map_verified(folder: Path, name: str, sha256: str) -> mmap.mmap:
    """A listed file in memory as it is read, checked before anything else sees it; close it after use.

    Raises EngineMismatchError if the file is missing, empty, a link, outside the folder, or not what the manifest says.
    """
    path = folder / name
    if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
        raise EngineMismatchError(f"{path} is a link or lies outside its engine folder; build the engines again")
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise EngineMismatchError(
            f"{path}, listed in {MANIFEST_NAME}, cannot be read; build the engines again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        content.close()
        raise EngineMismatchError(
            f"{path} was changed after it was built: its SHA-256 is {found[:12]}…, {MANIFEST_NAME} says "
            f"{sha256[:12]}…; build the engines again"
        )
    return content


def read_verified(folder: Path, name: str, sha256: str) -> bytes:
    """A listed file's bytes; `map_verified` for what is large."""
    with map_verified(folder, name, sha256) as content:
        return content[:]


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


def external_data_files(model: bytes) -> set[str]:
    """The files that an ONNX model's tensors are stored in, as the model names them.

    ONNX Runtime resolves them against the working directory when it gets a model as bytes, so they are looked at here,
    where the runtime path has no ONNX library, before it does.

    Raises:
        ValueError: not a serialised ONNX model.
    """
    return set(_locations(memoryview(model), "model"))


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    for number, content in _length_delimited(message):
        inner = _FIELDS[kind].get(number)
        if inner == "entry":
            entry = dict(_length_delimited(content))
            if bytes(entry.get(_KEY, b"")) == b"location":
                yield bytes(entry.get(_VALUE, b"")).decode()
        elif inner is not None:
            yield from _locations(content, inner)


def _length_delimited(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, content) of a protobuf message's strings, bytes and messages."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            _, position = _varint(message, position)
            continue
        length = {1: 8, 5: 4}.get(wire_type)
        if wire_type == 2:
            length, position = _varint(message, position)
        if length is None or position + length > len(message):
            raise ValueError("not a serialised ONNX model")
        if wire_type == 2:
            yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("not a serialised ONNX model")
