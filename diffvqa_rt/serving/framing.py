"""Messages between the server and the decoder's process: a small JSON object and some bytes, each with its length."""

import json
import struct
from collections.abc import Callable
from typing import IO, Any

_LENGTHS = struct.Struct("<IQ")
_MAX_JSON_BYTES = 1 << 20


def write_message(stream: IO[bytes], values: dict[str, Any], payload: bytes | memoryview) -> None:
    text = json.dumps(values).encode()
    stream.write(_LENGTHS.pack(len(text), len(payload)))
    stream.write(text)
    stream.write(payload)
    stream.flush()


def read_message(
    stream: IO[bytes], allocate: Callable[[int], memoryview] = lambda size: memoryview(bytearray(size))
) -> tuple[dict[str, Any], memoryview] | None:
    """The next message and its bytes, None where the stream ends between two.

    Args:
        stream: the reading end of a pipe.
        allocate: gives the memory for so many bytes, or raises ValueError where nobody expects as many.

    Raises:
        EOFError: the stream ends inside a message.
        ValueError: not a message.
    """
    header = stream.read(_LENGTHS.size)
    if not header:
        return None
    if len(header) < _LENGTHS.size:
        raise EOFError
    text_length, payload_length = _LENGTHS.unpack(header)
    if text_length > _MAX_JSON_BYTES:
        raise ValueError(f"a message of {text_length} bytes of JSON; expected at most {_MAX_JSON_BYTES}")
    text = stream.read(text_length)
    payload = allocate(payload_length)
    if len(text) < text_length or _fill(stream, payload) < payload_length:
        raise EOFError
    return json.loads(text), payload


def _fill(stream: IO[bytes], target: memoryview) -> int:
    filled = 0
    while filled < len(target) and (count := stream.readinto(target[filled:])):  # type: ignore[attr-defined]
        filled += count
    return filled
