"""WebP: its chunks, whether all are there, and an animation's delays."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

from diffvqa_rt.video.stills.header import Header, PictureFaultError, breaks_off, read_at, shown_delay

_DELAY_UNIT = Fraction(1, 1000)


def read_header(file: BinaryIO) -> Header:
    """The header of a WebP.

    Raises:
        PictureFaultError: it breaks off, or has no picture.
    """
    end = 8 + int.from_bytes(read_at(file, 4, 4), "little")
    if end > file.seek(0, 2):
        raise breaks_off()
    chunks = list(_chunks(file, 12, end))
    delays: list[int] = []
    kinds: set[bytes] = set()
    for kind, offset, length in chunks:
        kinds.add(kind)
        if kind == b"ANMF":
            delay = int.from_bytes(read_at(file, offset, 16)[12:15], "little")
            delays.append(int(shown_delay(delay * _DELAY_UNIT) / _DELAY_UNIT))
            kinds.update(inner for inner, _, _ in _chunks(file, offset + 16, offset + length))
    if not chunks or not kinds & {b"VP8 ", b"VP8L"}:
        raise PictureFaultError("without a picture; give the complete file")
    is_lossy = b"VP8 " in kinds
    return Header(
        codec="webp",
        size=_size(file, *chunks[0]),
        pixel_format=("yuva420p" if b"ALPH" in kinds else "yuv420p") if is_lossy else "argb",
        bit_depth=8,
        matrix="bt470bg" if is_lossy else "rgb",
        range="limited" if is_lossy else "full",
        delays=tuple(delays),
        delay_unit=_DELAY_UNIT,
    )


def _chunks(file: BinaryIO, offset: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while offset + 8 <= end:
        kind, length = struct.unpack("<4sI", read_at(file, offset, 8))
        if offset + 8 + length > end:
            raise breaks_off()
        yield kind, offset + 8, length
        offset += 8 + length + length % 2


def _size(file: BinaryIO, kind: bytes, offset: int, length: int) -> tuple[int, int]:
    head = read_at(file, offset, min(length, 10)).ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
