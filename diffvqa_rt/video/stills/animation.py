"""Decoding an animation's pictures in their order: the canvas of GIF and APNG, the pictures of WebP and AVIF."""

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.video.stills.header import Header, Patch, PictureFaultError, check_size, read_at
from diffvqa_rt.video.stills.opening import decoding, open_picture
from diffvqa_rt.video.stills.pixels import rgba_of


def pictures_on_screen(delays: Sequence[int], count: int) -> list[int]:
    """The indices of the pictures on screen at the centres of `count` equal spans of the duration."""
    ends = list(accumulate(delays))
    return [bisect_right(ends, (2 * i + 1) * ends[-1] // (2 * count)) for i in range(count)]


def canvases(file: BinaryIO, header: Header, pillow_format: str) -> Iterator[NDArray[np.uint8]]:
    """The canvas after each picture of a GIF or APNG, [H, W, 4] uint8 RGBA; the next one overwrites it."""
    assert header.size is not None
    width, height = header.size
    canvas = np.empty((height, width, 4), np.uint8)
    canvas[:] = header.canvas
    for index, patch in enumerate(header.patches):
        region = _region(canvas, patch)
        is_kept = patch.disposal == "previous" and index > 0
        before = region.copy() if is_kept else None
        drawn = _decode(file, patch, pillow_format)[: region.shape[0], : region.shape[1]]
        region[:] = _over(drawn, region) if patch.blends else drawn
        yield canvas
        if before is not None:
            region[:] = before
        elif patch.disposal != "keep":
            region[:] = patch.background


def _region(canvas: NDArray[np.uint8], patch: Patch) -> NDArray[np.uint8]:
    left, top, width, height = patch.box
    region = canvas[top : top + height, left : left + width]
    if 0 in region.shape:
        raise PictureFaultError("with a picture outside of its canvas; give an undamaged copy")
    return region


def _decode(file: BinaryIO, patch: Patch, pillow_format: str) -> NDArray[np.uint8]:
    check_size(patch.box[2:])
    data = b"".join(read_at(file, offset, length) for offset, length in patch.ranges)
    with open_picture(io.BytesIO(patch.encode(data)), (pillow_format,)) as image, decoding(image):
        return rgba_of(image)


def _over(drawn: NDArray[np.uint8], below: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`drawn` over `below`; what either has under no opacity at all does not show."""
    opacity = drawn[..., 3:]
    opaque = np.where(opacity == 255, drawn, below)
    if not ((opacity > 0) & (opacity < 255)).any():
        return opaque
    front = opacity.astype(np.float32) / 255
    back = below[..., 3:].astype(np.float32) / 255 * (1 - front)
    color = (drawn[..., :3] * front + below[..., :3] * back) / np.maximum(front + back, 1e-6)
    mixed = np.rint(np.concatenate([color, (front + back) * 255], -1)).astype(np.uint8)
    return np.where((opacity > 0) & (opacity < 255), mixed, opaque)
