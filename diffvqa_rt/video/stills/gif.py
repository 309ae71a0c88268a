"""GIF: the canvas, and where each picture on it and its delay stand."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import BinaryIO, Literal

from diffvqa_rt.video.stills.header import BROKEN_OFF, Header, Patch, breaks_off, shown_delay

_DELAY_UNIT = Fraction(1, 100)
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9
_HAS_PALETTE, _IS_TRANSPARENT = 0x80, 0x01
# The canvas where nothing was drawn: white, as ffmpeg has it.
_NOTHING = (255, 255, 255, 0)


@dataclass(frozen=True, slots=True)
class _Control:
    """The graphic control extension before a picture."""

    flags: int
    delay: int
    transparent: int

    @property
    def has_transparency(self) -> bool:
        return bool(self.flags & _IS_TRANSPARENT)

    @property
    def disposal(self) -> Literal["keep", "background", "previous"]:
        number = self.flags >> 2 & 7
        return "background" if number == 2 else "previous" if number == 3 else "keep"


_NO_CONTROL = _Control(0, 0, 0)


def read_header(file: BinaryIO) -> Header:
    """The header of a GIF; a file that breaks off gives the pictures that are whole.

    Raises:
        PictureFaultError: none is.
    """
    file.seek(0)
    patches: list[Patch] = []
    delays: list[int] = []
    is_whole = is_in_picture = False
    try:
        screen = _take(file, 13)
        width, height, flags, background, aspect = struct.unpack("<HHBBB", screen[6:])
        palette = _take_palette(file, flags)
        color = palette[3 * background : 3 * background + 3]
        fill = (color[0], color[1], color[2], 255) if color else _NOTHING
        canvas, control = _NOTHING, _NO_CONTROL
        while (kind := _take(file, 1)[0]) != _TRAILER:
            is_in_picture = kind == _IMAGE
            if kind == _EXTENSION:
                is_control = _take(file, 1)[0] == _GRAPHIC_CONTROL
                body = _take_blocks(file)
                if is_control and len(body) >= 4:
                    control = _Control(*struct.unpack("<BHB", body[:4]))
            elif is_in_picture:
                # From here to the end of its data, a picture is a file of its own but for the place on the canvas.
                start = file.tell()
                box = struct.unpack("<HHHH", _take(file, 8))
                _take_palette(file, _take(file, 1)[0])
                _take(file, 1)
                _take_blocks(file)
                if not patches:
                    width, height = width or box[2], height or box[3]
                    canvas = _NOTHING if control.has_transparency else fill
                patches.append(
                    Patch(
                        box=box,
                        disposal=control.disposal,
                        background=_NOTHING if control.has_transparency else fill,
                        blends=True,
                        ranges=((start, file.tell() - start),),
                        encode=partial(_encode, palette, flags, control),
                    )
                )
                delays.append(int(shown_delay(control.delay * _DELAY_UNIT) / _DELAY_UNIT))
                control, is_in_picture = _NO_CONTROL, False
        is_whole = True
    except EOFError:
        if not patches:
            raise breaks_off() from None
    return Header(
        codec="gif",
        size=(width, height),
        pixel_format="bgra",
        bit_depth=8,
        sample_aspect_ratio=f"{ratio.numerator}:{ratio.denominator}" if (ratio := _aspect(aspect)) else None,
        delays=tuple(delays),
        delay_unit=_DELAY_UNIT,
        canvas=canvas,
        patches=tuple(patches),
        corrupt_frames=int(is_in_picture),
        warnings=() if is_whole else (BROKEN_OFF,),
    )


def _aspect(code: int) -> Fraction | None:
    return Fraction(code + 15, 64) if code else None


def _take(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _take_palette(file: BinaryIO, flags: int) -> bytes:
    return _take(file, 3 << (flags & 7) + 1) if flags & _HAS_PALETTE else b""


def _take_blocks(file: BinaryIO) -> bytes:
    blocks = []
    while length := _take(file, 1)[0]:
        blocks.append(_take(file, length))
    return b"".join(blocks)


def _encode(palette: bytes, flags: int, control: _Control, data: bytes) -> bytes:
    screen = struct.pack("<4sBBB", data[4:8], flags, 0, 0)
    extension = struct.pack("<BBBBHBB", _EXTENSION, _GRAPHIC_CONTROL, 4, control.flags & 1, 0, control.transparent, 0)
    image = struct.pack("<BHH", _IMAGE, 0, 0) + data[4:]
    return b"GIF89a" + screen + palette + extension + image + bytes([_TRAILER])
