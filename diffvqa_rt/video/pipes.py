"""A video that comes through a pipe: all of it, on disk, within limits.

The frames to sample lie at shares of the duration, which only the pipe's end tells: so nothing is left out.
"""

import os
import re
import select
import tempfile
import time
from dataclasses import dataclass
from typing import BinaryIO

from diffvqa_rt.errors import VideoDecodeError

_PIECE_BYTES = 1 << 20
_FRAME_MARK = b"FRAME"

# YUV4MPEG2's header as `ffmpeg -f yuv4mpegpipe` and mjpegtools write it; without C it is 4:2:0.
_HEADER = re.compile(rb"YUV4MPEG2 [^\n]{1,200}\n")
_CHROMA = re.compile(rb"(?P<layout>420|411|422|444alpha|444|mono)(?P<depth>p?\d{1,2})?(?:jpeg|mpeg2|paldv)?")
_CHROMA_PLANES = {b"420": (2, 2, 2), b"411": (2, 4, 1), b"422": (2, 2, 1), b"444": (2, 1, 1), b"mono": (0, 1, 1)}
"""By layout: the number of chroma planes, and by what their width and height are divided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipeLimits:
    """Limits of one pipe: the most bytes that are kept, and the longest time until its end."""

    max_bytes: int = 16 << 30
    max_seconds: float = 3600.0


PIPE_LIMITS = PipeLimits()


def spooled(name: str, pipe: BinaryIO, limits: PipeLimits | None = None) -> BinaryIO:
    """All that comes through the pipe, in a file without a name in the system's temporary folder (`TMPDIR`).

    The caller closes it, and its room on the disk is free again. Memory does not grow with the video.

    Args:
        name: what messages call it.
        pipe: a pipe or socket, read from its descriptor until it ends.
        limits: `PIPE_LIMITS` by default.

    Raises:
        VideoDecodeError: the pipe does not end within the limits, breaks off within a frame of YUV4MPEG2, or there is
            no room for it on the disk.
        OSError: it cannot be read.
    """
    limits = limits or PIPE_LIMITS
    spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (the caller closes it)
    try:
        size = _copy(name, pipe.fileno(), spool.fileno(), limits)
        spool.seek(0)
        _check_whole(name, spool.read(512), size)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return spool


def _copy(name: str, source: int, target: int, limits: PipeLimits) -> int:
    """Copies until the end. Returns the number of bytes."""
    size, deadline = 0, time.monotonic() + limits.max_seconds
    waiting = select.poll()
    waiting.register(source, select.POLLIN)
    while True:
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0 or not waiting.poll(seconds_left * 1000):
            raise VideoDecodeError(
                f"{name} does not end within {limits.max_seconds:g} s ({size:,} bytes so far); end the program that "
                "writes to the pipe, or write a file and give that"
            )
        piece = os.read(source, _PIECE_BYTES)
        if not piece:
            return size
        size += len(piece)
        if size > limits.max_bytes:
            raise VideoDecodeError(
                f"{name} is larger than the {limits.max_bytes / (1 << 30):.3g} GiB that are kept of a pipe; cut it, "
                "scale it down, or write a file and give that"
            )
        _write(name, target, piece)


def _write(name: str, target: int, piece: bytes) -> None:
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[os.write(target, rest) :]
    except OSError as error:
        raise VideoDecodeError(
            f"{name} cannot be kept in {tempfile.gettempdir()} ({error.strerror or error}); "
            "set TMPDIR to a folder with more room"
        ) from error


def _check_whole(name: str, start: bytes, size: int) -> None:
    """Raises VideoDecodeError where YUV4MPEG2 of this size ends within a frame, which a decoder passes over."""
    header = _HEADER.match(start)
    frame_bytes = header and _frame_bytes(header[0])
    if not header or not frame_bytes:
        return
    # A frame's own header may have parameters; writers put the same on every frame, or none.
    end_of_mark = start.find(b"\n", header.end())
    mark = start[header.end() : end_of_mark + 1] if end_of_mark >= 0 else _FRAME_MARK + b"\n"
    frames, rest = divmod(size - header.end(), len(mark) + frame_bytes)
    if rest and mark.startswith(_FRAME_MARK):
        raise VideoDecodeError(
            f"{name} breaks off within frame {frames + 1:,}, after {rest:,} of {len(mark) + frame_bytes:,} bytes; "
            "check the program that writes to the pipe"
        )


def _frame_bytes(header: bytes) -> int | None:
    """The bytes of a frame by a YUV4MPEG2 header; None where it has a layout that is not known here."""
    fields = {field[:1]: field[1:] for field in header.split()[1:] if not field.startswith(b"X")}
    chroma = _CHROMA.fullmatch(fields.get(b"C", b"420"))
    width, height = fields.get(b"W", b""), fields.get(b"H", b"")
    if chroma is None or not width.isdigit() or not height.isdigit():
        return None
    has_alpha = chroma["layout"] == b"444alpha"
    planes, across, down = _CHROMA_PLANES[b"444" if has_alpha else chroma["layout"]]
    luma = int(width) * int(height)
    samples = luma * (2 if has_alpha else 1) + planes * -(-int(width) // across) * -(-int(height) // down)
    return samples * (2 if int((chroma["depth"] or b"8").lstrip(b"p")) > 8 else 1)
