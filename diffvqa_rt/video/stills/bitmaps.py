"""BMP, PBM, PGM and PPM: what of their headers tells a picture from a stream of pictures."""

import re
from typing import BinaryIO

from diffvqa_rt.video.stills.header import Header, breaks_off, read_up_to

_NETPBM_TOKEN = rb"(?:\s|#[^\n\r]*[\n\r])+(\d+)"
_NETPBM = re.compile(rb"P([1-6])" + _NETPBM_TOKEN * 2)
_NETPBM_WITH_MAXIMUM = re.compile(rb"P([1-6])" + _NETPBM_TOKEN * 3)
_MOST_HEADER_BYTES = 4096


def read_bmp_header(file: BinaryIO) -> Header | None:
    """The header of a BMP, None if the file is a stream of several of one size."""
    head = read_up_to(file, 0, 26)
    stated = int.from_bytes(head[2:6], "little")
    if stated > len(head) and (following := read_up_to(file, stated, 26))[:2] == b"BM" and following[14:] == head[14:]:
        return None
    return Header(codec="bmp")


def read_netpbm_header(file: BinaryIO) -> Header | None:
    """The header of a PBM, PGM or PPM, None if the file is a stream of several."""
    head = read_up_to(file, 0, _MOST_HEADER_BYTES)
    kind = int(head[1:2])
    is_bitmap = kind in (1, 4)
    found = (_NETPBM if is_bitmap else _NETPBM_WITH_MAXIMUM).match(head)
    if found is None:
        raise breaks_off()
    width, height = int(found[2]), int(found[3])
    maximum = 1 if is_bitmap else int(found[4])
    if kind > 3:
        samples = width * (3 if kind == 6 else 1)
        row = (width + 7) // 8 if is_bitmap else samples * (2 if maximum > 255 else 1)
        end = found.end() + 1 + row * height
        if read_up_to(file, end, len(found[0])) == found[0]:
            return None
        if file.seek(0, 2) < end:
            raise breaks_off()
    is_color = kind in (3, 6)
    is_deep = maximum > 255
    name = (
        "monob" if is_bitmap else ("rgb48be" if is_deep else "rgb24") if is_color else "gray16be" if is_deep else "gray"
    )
    return Header(
        codec="pbm" if is_bitmap else "ppm" if is_color else "pgm",
        size=(width, height),
        pixel_format=name,
        bit_depth=1 if is_bitmap else 16 if is_deep else 8,
        matrix="rgb" if is_color else "gray",
    )
