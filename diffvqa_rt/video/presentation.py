"""Declarations of a container and its codec on how pictures are shown: crop, turn, place of chroma, Dolby Vision.

libavformat reads all that from every container, and PyAV hands none of it out. So the stream's parameters are written
once more, as the header of a Matroska file in memory, and read from there: one layout, by a muxer that we can trust.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

# EBML identifiers (RFC 9559): the elements that hold others, on the way to those that are read.
_MASTERS = {0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x55B0, 0x7670, 0x41E4}
_CROP_LEFT, _CROP_TOP, _CROP_RIGHT, _CROP_BOTTOM = 0x54CC, 0x54BB, 0x54DD, 0x54AA
_POSE_YAW, _POSE_ROLL = 0x7673, 0x7675
_CHROMA_SITING = 0x55B7
_ADDITION, _DOLBY_VISION_BYTES = 0x41ED, 24


@dataclass(frozen=True, slots=True)
class Orientation:
    """The way a stored picture is shown: mirrored left to right first, if at all, then turned clockwise."""

    rotation_degrees: int
    is_mirrored: bool

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The stored picture [H, W, 3] as it is shown."""
        mirrored = pixels[:, ::-1] if self.is_mirrored else pixels
        return np.ascontiguousarray(np.rot90(mirrored, -self.rotation_degrees // 90))


@dataclass(frozen=True, slots=True)
class Crop:
    """The pixels to cut off at each side of a picture of `width` × `height`, as stored, before any turn."""

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int

    def is_for(self, width: int, height: int) -> bool:
        """True where a picture has the declared size, and something is left of it."""
        is_left = self.left + self.right < width and self.top + self.bottom < height
        return is_left and (width, height) == (self.width, self.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """The presentation that is declared for a whole stream; None where nothing is.

    Attributes:
        crop: of pictures that have the size that the container declares.
        orientation: of all pictures, unless the bitstream has another.
        is_chroma_sited: whether the place of chroma samples is declared; None where nobody knows.
        dolby_vision: profile and base-layer compatibility, as in the `dvcC` record.
    """

    crop: Crop | None = None
    orientation: Orientation | None = None
    is_chroma_sited: bool | None = None
    dolby_vision: tuple[int, int] | None = None


def read_presentation(stream: VideoStream) -> Presentation:
    """The declarations of a freshly opened stream; empty for the rare codec that Matroska cannot hold."""
    elements = {
        identifier: value
        for identifier, value in _elements(_matroska_header(stream))
        # Other records have the same element, and only Dolby Vision's this length.
        if identifier != _ADDITION or len(value) == _DOLBY_VISION_BYTES
    }
    if not elements:
        return Presentation()
    edges = [_unsigned(elements.get(edge)) for edge in (_CROP_LEFT, _CROP_TOP, _CROP_RIGHT, _CROP_BOTTOM)]
    return Presentation(
        crop=Crop(stream.width, stream.height, *edges) if any(edges) else None,
        orientation=_orientation(elements.get(_POSE_YAW), elements.get(_POSE_ROLL)),
        is_chroma_sited=_CHROMA_SITING in elements,
        dolby_vision=_dolby_vision(elements.get(_ADDITION)),
    )


def _matroska_header(stream: VideoStream) -> bytes:
    """The stream's parameters as Matroska writes them; empty if it cannot."""
    with av.open(io.BytesIO(), "w", format="null") as blank:
        # `opaque`: without an encoder, which not every codec has. What is left out is the tag of its container, which
        # the muxer mostly knows better, but not for raw video.
        untagged = blank.add_stream_from_template(stream, opaque=True)
        for parameters in (untagged, stream):
            header = io.BytesIO()
            try:
                with av.open(header, "w", format="matroska", options={"strict": "experimental"}) as copy:
                    # A filter hands on any codec, also those that PyAV believes Matroska cannot hold.
                    BitStreamFilterContext("null", parameters, copy.add_data_stream())
                    copy.start_encoding()
            except (av.FFmpegError, ValueError):
                continue
            return header.getvalue()
    return b""


def _orientation(yaw: bytes | None, roll: bytes | None) -> Orientation | None:
    if yaw is None and roll is None:
        return None
    # A roll is counter-clockwise, and half a turn about the vertical axis is a mirror.
    return Orientation(round(-_floating(roll) / 90) * 90 % 360, abs(_floating(yaw)) > 90)


def _dolby_vision(record: bytes | None) -> tuple[int, int] | None:
    return (record[2] >> 1, record[4] >> 4) if record else None


def _unsigned(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")


def _floating(value: bytes | None) -> float:
    return 0.0 if not value else struct.unpack(">f" if len(value) == 4 else ">d", value)[0]


def _elements(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The leaves of EBML that our own muxer wrote."""
    at, end = start, len(data) if end is None else end
    while at < end:
        width = 9 - data[at].bit_length()
        identifier, at = int.from_bytes(data[at : at + width], "big"), at + width
        width = 9 - data[at].bit_length()
        size, at = int.from_bytes(data[at : at + width], "big") - (1 << 7 * width), at + width
        # All ones: a size that was not known when it was written.
        stop = end if size == (1 << 7 * width) - 1 else min(at + size, end)
        if identifier in _MASTERS:
            yield from _elements(data, at, stop)
        else:
            yield identifier, data[at:stop]
        at = stop
