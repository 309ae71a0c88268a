"""PNG and APNG: their chunks, each checked against its checksum, and where an animation's pictures stand."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import BinaryIO, Literal

from av.video.reformatter import ColorPrimaries, ColorTrc

from diffvqa_rt.video.color import code_name
from diffvqa_rt.video.stills.header import (
    BROKEN_OFF,
    Header,
    Patch,
    PictureFaultError,
    aspect_ratio,
    breaks_off,
    shown_delay,
)
from diffvqa_rt.video.stills.primaries import declared_profile

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Divides the delays that people write, 1/24, 1/30, 1/60 and 1/1000 s among them.
_DELAY_UNIT = Fraction(1, 705_600_000)
_DISPOSALS: tuple[Literal["keep", "background", "previous"], ...] = ("keep", "background", "previous")
_PIXEL_FORMATS = {0: "gray", 2: "rgb24", 3: "pal8", 4: "ya8", 6: "rgba"}
_PIXEL_FORMATS_16 = {0: "gray16be", 2: "rgb48be", 4: "ya16be", 6: "rgba64be"}
_GREY = (0, 4)
_SRGB_CODES = (1, 13)
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Chunk:
    kind: bytes
    offset: int
    length: int


def read_header(file: BinaryIO) -> Header | None:
    """The header of a PNG, None if the file is a stream of several. What is ignored: gAMA, cHRM, sBIT, bKGD.

    Raises:
        PictureFaultError: it breaks off before its picture is whole, or a checksum is wrong.
    """
    chunks: list[_Chunk] = []
    is_whole = False
    try:
        for chunk in _chunks(file):
            chunks.append(chunk)
        is_whole = chunks[-1].kind == b"IEND"
    except EOFError:
        pass
    found = {chunk.kind: chunk for chunk in reversed(chunks)}
    if b"IHDR" not in found or b"IDAT" not in found:
        raise PictureFaultError("without picture data; give the complete file") if is_whole else breaks_off()
    fields = _read(file, found[b"IHDR"])
    if len(fields) != 13:
        raise PictureFaultError("with a damaged header; give an undamaged copy")
    width, height, bits, color_type = struct.unpack(">IIBB", fields[:10])
    end = chunks[-1].offset + chunks[-1].length + 4
    if is_whole and _starts_here(file, end, fields[:8]):
        return None
    primaries, transfer = _code_points(file, found)
    names = _PIXEL_FORMATS_16 if bits == 16 else _PIXEL_FORMATS
    patches: list[Patch] = []
    delays: list[int] = []
    if b"acTL" in found:
        patches, delays = _pictures(file, chunks, fields)
    is_broken_off = not is_whole and b"acTL" in found
    if not is_whole and not patches:
        raise breaks_off()
    return Header(
        codec="apng" if len(patches) > 1 else "png",
        size=(width, height),
        pixel_format="monob" if (bits, color_type) == (1, 0) else names.get(color_type),
        bit_depth=1 if (bits, color_type) == (1, 0) else max(bits, 8),
        matrix="gray" if color_type in _GREY else "rgb",
        transfer=code_name(ColorTrc, transfer),
        primaries=code_name(ColorPrimaries, primaries),
        profile=declared_profile(primaries, transfer),
        sample_aspect_ratio=_aspect(file, found),
        delays=tuple(delays),
        delay_unit=_DELAY_UNIT,
        patches=tuple(patches),
        corrupt_frames=int(is_broken_off),
        warnings=(BROKEN_OFF,) if is_broken_off else (),
    )


def _chunks(file: BinaryIO) -> Iterator[_Chunk]:
    """The chunks that are whole, up to IEND; EOFError where the file ends within one or without IEND."""
    offset = len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        file.seek(offset)
        head = file.read(8)
        if len(head) < 8:
            raise EOFError
        length, kind = struct.unpack(">I4s", head)
        checksum, left = zlib.crc32(kind), length
        while left:
            block = file.read(min(left, _BLOCK_BYTES))
            if not block:
                raise EOFError
            checksum, left = zlib.crc32(block, checksum), left - len(block)
        stored = file.read(4)
        if len(stored) < 4:
            raise EOFError
        # A lower-case initial marks a chunk that a reader may leave out; an animation's are among them.
        matters = kind[:1].isupper() or kind in (b"acTL", b"fcTL", b"fdAT")
        if matters and int.from_bytes(stored, "big") != checksum:
            raise PictureFaultError(
                f"whose {kind.decode('latin-1')} data is damaged (its checksum is wrong); give an undamaged copy"
            )
        yield _Chunk(kind, offset + 8, length)
        offset += 12 + length


def _read(file: BinaryIO, chunk: _Chunk) -> bytes:
    file.seek(chunk.offset)
    return file.read(chunk.length)


def _starts_here(file: BinaryIO, offset: int, size: bytes) -> bool:
    """True if another PNG of this size follows."""
    file.seek(offset)
    head = file.read(len(SIGNATURE) + 16)
    return head[: len(SIGNATURE)] == SIGNATURE and head[-8:] == size


def _code_points(file: BinaryIO, found: dict[bytes, _Chunk]) -> tuple[int, int]:
    """The codes of primaries and transfer that are declared, by cICP before sRGB."""
    if b"cICP" in found and len(codes := _read(file, found[b"cICP"])) == 4:
        return codes[0], codes[1]
    return _SRGB_CODES if b"sRGB" in found and b"iCCP" not in found else (2, 2)


def _aspect(file: BinaryIO, found: dict[bytes, _Chunk]) -> str | None:
    if b"pHYs" not in found or len(density := _read(file, found[b"pHYs"])) != 9:
        return None
    return aspect_ratio(*struct.unpack(">II", density[:8]))


def _pictures(file: BinaryIO, chunks: list[_Chunk], header: bytes) -> tuple[list[Patch], list[int]]:
    """The animation's pictures; a default image that no control chunk precedes is not one of them."""
    shared = b"".join(_wrap(chunk.kind, _read(file, chunk)) for chunk in chunks if chunk.kind in (b"PLTE", b"tRNS"))
    groups: list[tuple[bytes, list[tuple[int, int]]]] = []
    for chunk in chunks:
        if chunk.kind == b"fcTL":
            groups.append((_read(file, chunk), []))
        elif chunk.kind == b"IDAT" and groups:
            groups[-1][1].append((chunk.offset, chunk.length))
        elif chunk.kind == b"fdAT":
            if not groups or chunk.length < 4:
                raise PictureFaultError("whose animation is damaged; give an undamaged copy")
            groups[-1][1].append((chunk.offset + 4, chunk.length - 4))
    if groups and chunks[-1].kind != b"IEND":
        # Of the last, more may be missing.
        groups.pop()
    patches: list[Patch] = []
    delays: list[int] = []
    for control, ranges in groups:
        if len(control) != 26 or not ranges or control[24] > 2:
            raise PictureFaultError("whose animation is damaged; give an undamaged copy")
        width, height, left, top, numerator, denominator, disposal, blends = struct.unpack(">4I2H2B", control[4:])
        patches.append(
            Patch(
                box=(left, top, width, height),
                disposal=_DISPOSALS[disposal],
                background=(0, 0, 0, 0),
                # The first is the canvas, whatever its control chunk says.
                blends=blends == 1 and bool(patches),
                ranges=tuple(ranges),
                encode=partial(_encode, struct.pack(">II", width, height) + header[8:], shared),
            )
        )
        delays.append(round(shown_delay(Fraction(numerator, denominator or 100)) / _DELAY_UNIT))
    return patches, delays


def _wrap(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _encode(header: bytes, shared: bytes, data: bytes) -> bytes:
    return SIGNATURE + _wrap(b"IHDR", header) + shared + _wrap(b"IDAT", data) + _wrap(b"IEND", b"")
