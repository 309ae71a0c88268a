"""What strangers write to a server's ports without a gRPC or an HTTP library."""

import contextlib
import random
import socket
import struct
import threading
from collections import deque
from typing import Literal

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_KINDS = tuple(range(12))  # DATA to CONTINUATION, and two that HTTP/2 does not know
MOST_LEFT_OPEN = 24
SECONDS = 0.15

WireKind = Literal["garbage", "half a preface", "frames", "http"]
_PATHS = (
    b"/metrics",
    b"/v2/health/ready",
    b"/",
    b"/v2/models/diffvqa/infer",
    b"/" + b"a" * 70_000,
    b"\0",
    b"//x",
    b"*",
)


def wire_bytes(kind: WireKind, choose: random.Random) -> bytes:
    """What is written to a connection: noise, HTTP/2 frames, or HTTP/1."""
    if kind == "garbage":
        return choose.randbytes(choose.choice((0, 1, 9, 100, 5000, 100_000)))
    if kind == "half a preface":
        return PREFACE[: choose.randrange(len(PREFACE))] + choose.choice((b"", b"\0", choose.randbytes(30)))
    if kind == "frames":
        settings = choose.choice((_frame(4, 0, 0, b""), b""))
        return PREFACE + settings + b"".join(_random_frame(choose) for _ in range(choose.randrange(1, 12)))
    method = choose.choice((b"GET", b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"get", b"", choose.randbytes(5)))
    version = choose.choice((b" HTTP/1.1", b" HTTP/1.0", b" HTTP/9.9", b"", b" HTTP/x", b" JUNK"))
    headers = choose.choice(
        (
            b"",
            b"Content-Length: 20000000\r\n\r\n" + bytes(70_000),
            b"Content-Length: -1\r\n",
            b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            b"x" * 70_000,
            b"a: b\r\n" * 200,
            b"Expect: 100-continue\r\n",
            b"Connection: keep-alive\r\n\r\nGET /metrics HTTP/1.1\r\n",
            b": \r\n\x80\xff",
        )
    )
    whole = method + b" " + choose.choice(_PATHS) + version + b"\r\n" + headers + b"\r\n"
    return whole[: choose.choice((None, None, choose.randrange(len(whole) + 1)))]


def _random_frame(choose: random.Random) -> bytes:
    payload = choose.randbytes(choose.choice((0, 1, 4, 5, 6, 8, 9, 60, 17_000)))
    length = choose.choice((len(payload), len(payload), len(payload) + 1, 0, 2**24 - 1))
    stream = choose.choice((0, 1, 1, 2, 3, 2**31 - 1, 2**32 - 1))
    return _frame(choose.choice(FRAME_KINDS), choose.choice((0, 1, 4, 5, 8, 0x20, 0xFF)), stream, payload, length)


def _frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    size = struct.pack(">I", len(payload) if length is None else length)[1:]
    return size + struct.pack(">BBI", kind, flags, stream) + payload


class Wires:
    """Raw connections; the last ones that were left open stay so."""

    def __init__(self) -> None:
        self._open: deque[socket.socket] = deque()
        self._lock = threading.Lock()

    def write(self, port: int, content: bytes, *, leaves_open: bool, resets: bool) -> Literal["closed", "left open"]:
        """Writes the content and reads an answer for a moment. Returns what the server did with the connection.

        Args:
            leaves_open: the connection stays, with nothing more to come.
            resets: it is closed without reading what has arrived, which resets it.
        """
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        is_closed = False
        with contextlib.suppress(TimeoutError):
            try:
                connection.sendall(content)
                connection.settimeout(SECONDS)
                while not resets and not is_closed:
                    is_closed = not connection.recv(65536)
            except ConnectionError:
                is_closed = True
        if leaves_open:
            self._leave_open(connection)
        else:
            if resets:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        return "closed" if is_closed else "left open"

    def _leave_open(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.append(connection)
            if len(self._open) > MOST_LEFT_OPEN:
                self._open.popleft().close()

    def close(self) -> None:
        with self._lock:
            while self._open:
                self._open.popleft().close()
