"""The picture formats that Pillow decodes, told by their first bytes, never by a name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from diffvqa_rt.video.stills import bitmaps, gif, heif, jpeg, png, webp
from diffvqa_rt.video.stills.header import Header

_HEAD_BYTES = 1024
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """A format: its name in sentences and in Pillow, its mark, and its header's reader.

    The reader gives None for a stream of pictures, which is a video.
    """

    title: str
    pillow: str
    is_begun_by: Callable[[bytes], bool]
    read_header: Callable[[BinaryIO], Header | None]


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES


def _is_netpbm(head: bytes) -> bool:
    return head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\n\r#" and len(head) > 2


def _is_jpeg2000(head: bytes) -> bool:
    """True of one picture; Motion JPEG 2000 is a video."""
    is_boxed = head[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" and head[20:24] != b"mjp2"
    return is_boxed or head[:4] == b"\xff\x4f\xff\x51"


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _starts(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(marks)


def _header_by_pillow(codec: str, file: BinaryIO) -> Header:
    return Header(codec=codec)


_FORMATS = (
    PictureFormat("a PNG picture", "PNG", _starts(png.SIGNATURE), png.read_header),
    PictureFormat("a JPEG picture", "JPEG", _starts(b"\xff\xd8\xff"), jpeg.read_header),
    PictureFormat("a GIF", "GIF", _starts(b"GIF87a", b"GIF89a"), gif.read_header),
    PictureFormat("a WebP picture", "WEBP", _is_webp, webp.read_header),
    PictureFormat(
        "a TIFF picture", "TIFF", _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), partial(_header_by_pillow, "tiff")
    ),
    PictureFormat("a BMP picture", "BMP", _is_bmp, bitmaps.read_bmp_header),
    PictureFormat("a Netpbm picture", "PPM", _is_netpbm, bitmaps.read_netpbm_header),
    PictureFormat("a JPEG 2000 picture", "JPEG2000", _is_jpeg2000, partial(_header_by_pillow, "jpeg2000")),
    PictureFormat("an AVIF picture", "AVIF", heif.is_avif, partial(heif.read_header, codec="av1")),
    PictureFormat("a HEIC picture", "HEIF", heif.is_heic, partial(heif.read_header, codec="hevc")),
)


def recognise(file: BinaryIO) -> PictureFormat | None:
    """The format of a picture, None for anything else."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    return next((known for known in _FORMATS if known.is_begun_by(head)), None)
