"""Small pictures in files, made by Pillow when a test asks for them."""

import io
import struct
import zlib

import numpy as np
from clips import moving_picture
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.video import SampledFrames

WIDTH, HEIGHT = 40, 30


def picture(index: int = 3, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    return Image.fromarray(moving_picture(index, width, height) // 2 + 40)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def distance(sampled: SampledFrames, expected: Image.Image | NDArray[np.uint8]) -> int:
    return int(np.abs(sampled.frames[0].astype(int) - np.asarray(expected)).max())


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    return png[:33] + png_chunk(kind, data) + png[33:]


def animation(file_format: str, delays_ms: list[int], **options: object) -> bytes:
    images = [picture(2 * index).quantize(64).convert("RGB") for index in range(len(delays_ms))]
    if file_format == "GIF":
        images = [image.quantize(64) for image in images]
    options = ({"lossless": True} if file_format == "WEBP" else {}) | options
    return encoded(images[0], file_format, save_all=True, append_images=images[1:], duration=delays_ms, **options)


def huge_png(side: int) -> bytes:
    """A picture of 60 bytes that declares `side` × `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
