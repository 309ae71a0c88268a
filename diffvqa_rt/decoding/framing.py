"""Messages to and from the decoder's process, over a socket: a small JSON object and some bytes, each with its length.

A request may have an open file with it, which the kernel hands over: no name has to mean the same in both processes.
"""

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

ErrorKind = Literal["video", "memory", "input", "fault"]
"""The field `kind` of an answer with an error: the video, memory, an option of the request, or the decoder is to blame.

`memory`: the video takes more than the limit, and the process ends, since too little may be left for another.
"""

_LENGTHS = struct.Struct("<IQ")
_MAX_JSON_BYTES = 1 << 20
# From a message's first bytes to its last.
_TRANSFER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Message:
    """A message; `file` is the number of the open file that came with it, which is the receiver's to close."""

    values: dict[str, Any]
    payload: memoryview
    file: int | None


def send_message(
    connection: socket.socket,
    values: dict[str, Any],
    payload: Sequence[bytes | memoryview] = (),
    file: int | None = None,
) -> None:
    """Sends a message, its bytes in several pieces, and with it the open file of this number.

    Raises:
        OSError: the other side is gone.
        TimeoutError: it does not take the message in the connection's time.
    """
    text = json.dumps(values).encode()
    head = _LENGTHS.pack(len(text), sum(memoryview(piece).nbytes for piece in payload)) + text
    sent = socket.send_fds(connection, [head], [file]) if file is not None else 0
    connection.sendall(head[sent:])
    for piece in payload:
        connection.sendall(piece)


def receive_message(
    connection: socket.socket,
    allocate: Callable[[int], memoryview] = lambda size: memoryview(bytearray(size)),
    *,
    takes_file: bool = False,
    deadline: float | None = None,
) -> Message | None:
    """The next message, None where the connection ends between two.

    Args:
        connection: a stream socket.
        allocate: gives the memory for so many bytes, or raises ValueError where nobody expects as many.
        takes_file: whether an open file may come with it; one that nobody expects is closed by the kernel.
        deadline: by `time.monotonic`, for the message's first bytes; for ever if None.

    Raises:
        EOFError: the connection ends inside a message.
        TimeoutError: the message has not begun at the deadline, or takes too long to come.
        ValueError: not a message.
        OSError: the connection breaks.
    """
    header, files = memoryview(bytearray(_LENGTHS.size)), list[int]()
    received = 0
    if takes_file:
        first, files, _, _ = socket.recv_fds(connection, len(header), 1)
        received = len(first)
        header[:received] = first
    if received or not takes_file:
        received += _fill(connection, header[received:], deadline)
    if not received:
        return None
    try:
        if received < len(header):
            raise EOFError
        text_length, payload_length = _LENGTHS.unpack(header)
        if text_length > _MAX_JSON_BYTES:
            raise ValueError(f"a message of {text_length} bytes of JSON; expected at most {_MAX_JSON_BYTES}")
        text, payload = memoryview(bytearray(text_length)), allocate(payload_length)
        end = None if deadline is None else time.monotonic() + _TRANSFER_SECONDS
        if _fill(connection, text, end) < text_length or _fill(connection, payload, end) < payload_length:
            raise EOFError
        values = json.loads(bytes(text))
        if not isinstance(values, dict):
            raise ValueError(f"a message of {type(values).__name__}; expected an object")
        return Message(values, payload, files[0] if files else None)
    except BaseException:
        for file in files:
            os.close(file)
        raise


def _fill(connection: socket.socket, target: memoryview, deadline: float | None) -> int:
    filled = 0
    while filled < len(target):
        if deadline is not None:
            # Each time anew: bytes that trickle in one by one gain no time.
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
        count = connection.recv_into(target[filled:])
        if not count:
            break
        filled += count
    return filled
