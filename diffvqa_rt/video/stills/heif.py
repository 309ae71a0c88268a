"""AVIF and HEIC: their brands, the colour that their boxes declare, and an AVIF animation's delays."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

from diffvqa_rt.video.color import code_name
from diffvqa_rt.video.presentation import Orientation
from diffvqa_rt.video.stills.header import Header, breaks_off, read_at, shown_delay
from diffvqa_rt.video.stills.primaries import declared_profile

_AVIF = frozenset((b"avif", b"avis"))
_HEIC = frozenset((b"heic", b"heix", b"heim", b"heis"))
_HEVC_SEQUENCE = frozenset((b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"))
_MOST_BRANDS_BYTES = 1024
_MOST_BOX_BYTES = 1 << 26
# ISO/IEC 23091-2.
_MATRICES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}
_UNSPECIFIED = 2
_MOST_PICTURES = 1 << 20

_Box = tuple[bytes, int, int]
"""A box's kind, and where its content starts and ends."""


def brands(head: bytes) -> frozenset[bytes]:
    """The brands in the file type box that `head` begins with, none if there is no such box."""
    if head[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(head[:4], "big"), _MOST_BRANDS_BYTES, len(head))
    return frozenset(head[at : at + 4] for at in (8, *range(16, end - 3, 4)))


def is_avif(head: bytes) -> bool:
    return bool(brands(head) & _AVIF)


def is_heic(head: bytes) -> bool:
    """True of a HEIC picture; a sequence of HEVC pictures is a video like any other."""
    found = brands(head)
    is_sequence = head[8:12] in _HEVC_SEQUENCE
    return not is_sequence and not found & _AVIF and bool(found & _HEIC or b"mif1" in found)


def read_header(file: BinaryIO, codec: str) -> Header:
    """The header of an AVIF or HEIC picture or of an AVIF animation.

    Raises:
        PictureFaultError: the file breaks off.
    """
    top = list(_file_boxes(file))
    meta = b"".join(_content(file, box) for box in top if box[0] == b"meta")
    movie = b"".join(_content(file, box) for box in top if box[0] == b"moov")
    properties = {kind: meta[start:end] for kind, start, end in reversed(_find(meta, 4, b"iprp", b"ipco"))}
    primaries, transfer, matrix, is_full = _color(meta)
    configuration = properties.get(b"av1C" if codec == "av1" else b"hvcC", b"")
    pixel_format, bit_depth = _av1_format(configuration) if codec == "av1" else _hevc_format(configuration)
    delays, delay_unit = _delays(movie) if codec == "av1" else ((), Fraction(1))
    clap = properties.get(b"clap", b"")
    spacing = properties.get(b"pasp", b"")
    return Header(
        codec=codec,
        pixel_format=pixel_format,
        bit_depth=bit_depth,
        matrix="gray" if pixel_format and pixel_format.startswith("gray") else matrix,
        range="full" if is_full else "limited",
        transfer=code_name(ColorTrc, transfer),
        primaries=code_name(ColorPrimaries, primaries),
        sample_aspect_ratio="{}:{}".format(*struct.unpack(">II", spacing)) if len(spacing) == 8 else None,
        delays=delays if len(delays) > 1 else (),
        delay_unit=delay_unit,
        profile=declared_profile(primaries, transfer),
        # libheif crops by itself.
        clean_aperture=struct.unpack(">8i", clap) if codec == "av1" and len(clap) == 32 else (),
        # Of AVIF, Pillow tells.
        decoded_upright_by=None if codec == "av1" else _orientation(properties),
    )


def cropped(pixels: NDArray[np.uint8], clean_aperture: tuple[int, ...]) -> NDArray[np.uint8]:
    """The part of a stored picture that is shown; all of it where the crop does not lie within."""
    if not clean_aperture or min(clean_aperture[1::2]) < 1:
        return pixels
    across, down, right, below = (Fraction(*clean_aperture[at : at + 2]) for at in (0, 2, 4, 6))
    height, width, _ = pixels.shape
    left, top = (width - across) / 2 + right, (height - down) / 2 + below
    if min(left, top) < 0 or min(across, down) < 1 or left + across > width or top + down > height:
        return pixels
    return pixels[round(top) : round(top + down), round(left) : round(left + across)]


def _file_boxes(file: BinaryIO) -> Iterator[_Box]:
    length, offset = file.seek(0, 2), 0
    while offset + 8 <= length:
        size, kind = struct.unpack(">I4s", read_at(file, offset, 8))
        start = offset + 8
        if size == 1:
            size, start = int.from_bytes(read_at(file, start, 8), "big"), start + 8
        end = offset + size if size else length
        if end > length:
            raise breaks_off()
        if end < start:
            return
        yield kind, start, end
        offset = end


def _content(file: BinaryIO, box: _Box) -> bytes:
    return read_at(file, box[1], min(box[2] - box[1], _MOST_BOX_BYTES))


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        stop = start + size if size else end
        if not start + 8 <= stop <= end:
            return
        yield kind, start + 8, stop
        start = stop


def _find(data: bytes, start: int, *path: bytes) -> list[_Box]:
    """The boxes in the first box at `path`."""
    end = len(data)
    for wanted in path:
        inside = [box for box in _boxes(data, start, end) if box[0] == wanted]
        if not inside:
            return []
        _, start, end = inside[0]
    return list(_boxes(data, start, end))


def _color(meta: bytes) -> tuple[int, int, str, bool]:
    """Codes of primaries and transfer, the matrix and whether the range is full, by the first colour box with codes."""
    for kind, start, end in _find(meta, 4, b"iprp", b"ipco"):
        if kind == b"colr" and meta[start : start + 4] == b"nclx" and end - start >= 11:
            primaries, transfer, matrix, flags = struct.unpack_from(">HHHB", meta, start + 4)
            return primaries, transfer, _MATRICES.get(matrix, "smpte170m"), bool(flags & 0x80)
    return _UNSPECIFIED, _UNSPECIFIED, "smpte170m", True


def _av1_format(configuration: bytes) -> tuple[str | None, int | None]:
    if len(configuration) < 3:
        return None, None
    flags = configuration[2]
    bits = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    suffix = "" if bits == 8 else f"{bits}le"
    if flags & 0x10:
        return f"gray{suffix}", bits
    sampling = {0b00: "444", 0b10: "422", 0b11: "420"}.get(flags >> 2 & 3, "444")
    return f"yuv{sampling}p{suffix}", bits


def _hevc_format(configuration: bytes) -> tuple[str | None, int | None]:
    if len(configuration) < 18:
        return None, None
    bits = 8 + (configuration[17] & 7)
    sampling = ("gray", "yuv420p", "yuv422p", "yuv444p")[configuration[16] & 3]
    return sampling if bits == 8 else f"{sampling}{bits}le", bits


def _orientation(properties: dict[bytes, bytes]) -> Orientation:
    """The effect of `irot`, counter-clockwise, and then `imir`, as a mirroring from left to right and then a turn."""
    turn = 90 * (properties.get(b"irot", b"\0")[0] & 3)
    if b"imir" not in properties:
        return Orientation(-turn % 360, False)
    is_upside_down = not properties[b"imir"][0] & 1
    return Orientation((turn + 180 * is_upside_down) % 360, True)


def _delays(movie: bytes) -> tuple[tuple[int, ...], Fraction]:
    """The delays of the track of pictures; the other one, if any, is of their alpha."""
    for kind, start, end in _boxes(movie, 0, len(movie)):
        track = movie[start:end]
        handler = next((track[a : a + 12] for k, a, _ in _find(track, 0, b"mdia") if k == b"hdlr"), b"")
        if kind != b"trak" or handler[8:12] != b"pict":
            continue
        head = next((track[a:b] for k, a, b in _find(track, 0, b"mdia") if k == b"mdhd"), b"")
        timescale = int.from_bytes(head[20:24] if head[:1] == b"\1" else head[12:16], "big")
        table = next((track[a:b] for k, a, b in _find(track, 0, b"mdia", b"minf", b"stbl") if k == b"stts"), b"")
        if not timescale:
            break
        unit = Fraction(1, timescale)
        instant = max(round(shown_delay(Fraction(0)) / unit), 1)
        delays: list[int] = []
        for at in range(8, len(table) - 7, 8):
            count, delay = struct.unpack_from(">II", table, at)
            # A few bytes can declare billions.
            delays += [delay or instant] * min(count, _MOST_PICTURES - len(delays))
        return tuple(delays), unit
    return (), Fraction(1)
