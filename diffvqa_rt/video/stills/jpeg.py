"""JPEG: where the first picture of a file ends, whether more of its kind follow, and whether its data is damaged."""

import re
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

import av

from diffvqa_rt.video.stills.header import (
    Header,
    PictureFaultError,
    aspect_ratio,
    breaks_off,
    check_size,
    read_at,
    read_up_to,
)

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP2, _APP14, _COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_LONE_MARKERS = (0x01, *range(0xD0, 0xD9))
_FRAME_HEADERS = tuple(code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC))
_SEQUENTIAL, _HUFFMAN = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2)
# In coded data, 0xff is followed by zero, stands for a restart or pads; anything else after it ends the data.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_BLOCK_BYTES = 1 << 20
# What says that the pictures in a file belong to one photograph: the multi-picture index, and Google's in XMP.
_PICTURE_INDEX, _XMP_PICTURE_INDEX = b"MPF\0", b"Container:Directory"
_MOST_PADDING_BYTES = 64
_SAMPLINGS = {(2, 2): "yuvj420p", (2, 1): "yuvj422p", (1, 2): "yuvj440p", (4, 1): "yuvj411p", (1, 1): "yuvj444p"}
_END = b"\xff\xd9"


@dataclass(slots=True)
class _Structure:
    """The facts that the markers of one picture state; `end` is the offset behind it."""

    frame_code: int = 0
    frame_header: bytes = b""
    has_picture_index: bool = False
    adobe_transform: int | None = None
    sample_aspect_ratio: str | None = None
    is_ended: bool = False
    end: int = 0
    # Offset and length of all but metadata.
    coded: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        height, width = struct.unpack(">HH", self.frame_header[1:5])
        return width, height


def read_header(file: BinaryIO) -> Header | None:
    """The header of a file's first picture, None if the file is Motion JPEG: several of one size, without an index.

    Later pictures of an indexed file, or of another size, are previews, depth and gain maps.

    Raises:
        PictureFaultError: the picture breaks off.
    """
    first = _structure(file, 0)
    if len(first.frame_header) < 6:
        raise breaks_off() if not first.is_ended else PictureFaultError("without a picture; give the complete file")
    if not first.has_picture_index and first.size == _size_after(file, first.end):
        return None
    check_size(first.size)
    content = read_at(file, 0, first.end)
    coded = b"".join(content[start : start + length] for start, length in first.coded)
    if not first.is_ended:
        # Without its end mark, a picture of one pass may still be whole, which its decoder knows.
        if first.frame_code not in _SEQUENTIAL or not _decodes(coded + _END):
            raise breaks_off()
        content += _END
    pixel_format, matrix = _pixel_format(first)
    return Header(
        codec="mjpeg",
        size=first.size,
        pixel_format=pixel_format,
        bit_depth=first.frame_header[0],
        matrix=matrix,
        sample_aspect_ratio=first.sample_aspect_ratio,
        content=content,
        is_damaged=(lambda: _decodes(coded) is False) if first.is_ended and first.frame_code in _HUFFMAN else None,
    )


def _structure(file: BinaryIO, start: int, *, is_size_enough: bool = False) -> _Structure:
    found = _Structure(coded=[(start, 2)])
    position = start + 2
    while (head := read_up_to(file, position, 4))[:1] == b"\xff":
        code = head[1] if len(head) > 1 else _SOI
        if code == 0xFF:
            position += 1
        elif code == _EOI:
            found.coded.append((position, 2))
            found.is_ended, position = True, position + 2
            break
        elif code == _SOI:
            break
        elif code in _LONE_MARKERS:
            position += 2
        else:
            length = 2 + int.from_bytes(head[2:4], "big")
            body = read_up_to(file, position + 4, max(length - 4, 0))
            _note(found, code, body)
            if is_size_enough and found.frame_header:
                break
            following = position + length
            if code == _SOS:
                following = _end_of_scan(file, following)
            if not _APP0 < code < _APP14 and code != _COM:
                found.coded.append((position, following - position))
            position = following
    found.end = min(position, file.seek(0, 2))
    return found


def _note(found: _Structure, code: int, body: bytes) -> None:
    if code in _FRAME_HEADERS and not found.frame_header:
        found.frame_code, found.frame_header = code, body
    elif code == _APP0 and body[:5] == b"JFIF\0" and len(body) >= 12:
        found.sample_aspect_ratio = aspect_ratio(*struct.unpack(">HH", body[8:12]))
    elif code == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
        found.adobe_transform = body[11]
    elif (code == _APP2 and body[:4] == _PICTURE_INDEX) or (code == _APP1 and _XMP_PICTURE_INDEX in body):
        found.has_picture_index = True


def _end_of_scan(file: BinaryIO, position: int) -> int:
    """The offset of the marker that ends the coded data at `position`, or the file's end."""
    file.seek(position)
    data = file.read(_BLOCK_BYTES)
    while (end := _END_OF_SCAN.search(data)) is None:
        more = file.read(_BLOCK_BYTES)
        if not more:
            return position + len(data)
        # A marker may lie on the border.
        position += len(data) - 1
        data = data[-1:] + more
    return position + end.start()


def _size_after(file: BinaryIO, end: int) -> tuple[int, int] | None:
    """The size of the picture that follows at `end`, after padding."""
    following = read_up_to(file, end, _MOST_PADDING_BYTES)
    start = following.find(b"\xff\xd8\xff")
    if start < 0 or following[:start].strip(b"\0\xff\r\n"):
        return None
    second = _structure(file, end + start, is_size_enough=True)
    return second.size if len(second.frame_header) >= 6 else None


def _decodes(coded: bytes) -> bool | None:
    """True if a strict decoder finds the data sound, None where it cannot tell; libjpeg keeps it to itself.

    Of single damaged bytes it finds one in four (one in two in progressive JPEG), of lost blocks nearly all.
    """
    context = av.CodecContext.create("mjpeg", "r")
    context.thread_count = 1
    context.options = {"err_detect": "explode"}
    try:
        return bool(context.decode(av.Packet(coded)))
    except av.error.InvalidDataError:
        return False
    except av.FFmpegError:
        return None


def _pixel_format(found: _Structure) -> tuple[str, str]:
    """ffmpeg's name of the format, but `cmyk`, and the matrix."""
    components = [found.frame_header[at : at + 3] for at in range(6, len(found.frame_header) - 2, 3)]
    if len(components) == 1:
        return "gray", "gray"
    if len(components) == 4:
        return "cmyk", "rgb"
    if found.adobe_transform == 0 or bytes(part[0] for part in components) == b"RGB":
        return "gbrp", "rgb"
    factors = [divmod(part[1], 16) for part in components]
    ratio = (factors[0][0] // max(factors[-1][0], 1), factors[0][1] // max(factors[-1][1], 1))
    return _SAMPLINGS.get(ratio, "yuvj444p"), "bt470bg"
