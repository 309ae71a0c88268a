"""Sampled frames of a picture file, which Pillow decodes: stills, and animations as the videos that they are."""

import contextlib
import dataclasses
import io
import itertools
import struct
from collections.abc import Iterable
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from diffvqa_rt.errors import ScoreWarning, VideoDecodeError
from diffvqa_rt.video.presentation import Orientation
from diffvqa_rt.video.sampled import SampledFrames, VideoInfo, few_frames_warnings, hdr_warnings
from diffvqa_rt.video.stills.animation import canvases, pictures_on_screen
from diffvqa_rt.video.stills.formats import PictureFormat, recognise
from diffvqa_rt.video.stills.header import Header, PictureFaultError, aspect_ratio, breaks_off, check_size
from diffvqa_rt.video.stills.heic import heic_size, open_heic
from diffvqa_rt.video.stills.heif import cropped
from diffvqa_rt.video.stills.opening import decoding, faults_told, open_picture, quiet
from diffvqa_rt.video.stills.pixels import rgb_of

_DAMAGED = ScoreWarning("damaged-picture", "its data is damaged, and what the decoder made of it is scored")

# EXIF's orientation: mirrored left to right first, then turned clockwise.
_UPRIGHT = Orientation(0, False)
_ORIENTATIONS = {
    1: _UPRIGHT,
    2: Orientation(0, True),
    3: Orientation(180, False),
    4: Orientation(180, True),
    5: Orientation(270, True),
    6: Orientation(90, False),
    7: Orientation(90, True),
    8: Orientation(270, False),
}
_ORIENTATION_TAG = 0x0112
# TIFF's tags: where strips and tiles start, and how long they are.
_DATA_TAGS = ((273, 279), (324, 325))
# Kind of page (bit 0: a smaller copy of another), bits a sample, what zero means, pixels to a length, camera raw.
_PAGE_KIND_TAG, _IS_COPY, _BITS_TAG, _ACROSS_TAG, _DOWN_TAG, _RAW_TAG = 254, 1, 258, 282, 283, 50706
_MEANING_TAG, _WHITE_IS_ZERO = 262, 0

# Pillow's mode → ffmpeg's name and bits a sample, where the header says nothing.
_PIXEL_FORMATS = {
    "1": ("monob", 1),
    "L": ("gray", 8),
    "LA": ("ya8", 8),
    "I;16": ("gray16le", 16),
    "I;16B": ("gray16be", 16),
    "P": ("pal8", 8),
    "PA": ("pal8", 8),
    "RGB": ("rgb24", 8),
    "RGBA": ("rgba", 8),
    "CMYK": ("cmyk", 8),
}
_BMP_PIXEL_FORMATS = {"RGB": ("bgr24", 8), "RGBA": ("bgra", 8)}
_BMP_PALETTE = ("pal8", 8)


def sample_still(name: str, file: BinaryIO, count: int, animation_count: int) -> SampledFrames | None:
    """The frames that `sample_frames` promises of a picture or an animation; None where PyAV is to decode it.

    A file's first picture is its frame: further pages, previews, depth and gain maps are none. Animated GIF, PNG, WebP
    and AVIF are videos, whose pictures are decoded in their order and only the sampled ones kept.

    Raises:
        VideoDecodeError: it is a picture and cannot be decoded.
    """
    picture_format = recognise(file)
    if picture_format is None:
        return None
    with faults_told(name, picture_format.title):
        header = picture_format.read_header(file)
        if header is None:
            return None
        if header.size is not None:
            check_size(header.size)
        if len(header.delays) > 1:
            return _sample_animation(file, header, picture_format.pillow, animation_count)
        return _sample_picture(file, header, picture_format, count)


def sample_picture_of_sequence(name: str, file: BinaryIO) -> SampledFrames:
    """The one frame of a picture that is a video's frame, laid over white where it is transparent.

    Raises:
        VideoDecodeError: it cannot be decoded, or is no still picture.
    """
    if (picture_format := recognise(file)) is not None:
        with faults_told(name, picture_format.title):
            header = picture_format.read_header(file)
            if header is not None and len(header.delays) <= 1:
                return _sample_picture(file, header, picture_format, 1, is_over_white=True)
    raise VideoDecodeError(
        f"{name} is not a still picture, as those of a folder must be; take it out of the folder, and give it by "
        "itself if it is a video"
    )


def declared_size(name: str, file: BinaryIO) -> tuple[int, int] | None:
    """The numbers of pixels and of frames that a picture file declares; None where PyAV is to decode it.

    Raises:
        VideoDecodeError: it is a picture whose header cannot be read.
    """
    picture_format = recognise(file)
    if picture_format is None:
        return None
    with faults_told(name, picture_format.title):
        header = picture_format.read_header(file)
        if header is None:
            return None
        frames = max(len(header.delays), 1)
        if header.size is not None:
            return header.size[0] * header.size[1], frames
        if picture_format.pillow == "HEIF":
            width, height = heic_size(file)
            return width * height, frames
        with _opened(file, header, picture_format) as image:
            return image.width * image.height, frames


def _opened(file: BinaryIO, header: Header, picture_format: PictureFormat) -> AbstractContextManager[Image.Image]:
    source = file if header.content is None else io.BytesIO(header.content)
    return open_heic(source) if picture_format.pillow == "HEIF" else open_picture(source, (picture_format.pillow,))


def _sample_picture(
    file: BinaryIO, header: Header, picture_format: PictureFormat, count: int, *, is_over_white: bool = False
) -> SampledFrames:
    # An animation is laid over white even if it is one picture: a GIF has nothing but white behind it.
    is_over_white |= bool(header.delays)
    if header.patches:
        profile, orientation = _shared_by_pictures(file, picture_format.pillow)
        canvas = Image.fromarray(next(canvases(file, header, picture_format.pillow)))
        pixels, warnings = rgb_of(canvas, profile or header.profile, is_over_white=is_over_white)
        pixels = orientation.upright(pixels)
    else:
        with _opened(file, header, picture_format) as image:
            decoded_upright_by = header.decoded_upright_by
            if isinstance(image, TiffImageFile):
                header = _with_first_page(image, header, file.seek(0, 2))
                # Pillow turns TIFF as it decodes it, and then forgets that.
                decoded_upright_by = _orientation(image)
            header = _with_pixel_format(image, header)
            with decoding(image):
                image.load()
            profile = image.info.get("icc_profile") or header.profile
            pixels, warnings = rgb_of(image, profile, header.grey_range, is_over_white=is_over_white)
            pixels = cropped(pixels, header.clean_aperture)
            orientation = decoded_upright_by or _orientation(image)
            if decoded_upright_by is None:
                pixels = orientation.upright(pixels)
        if header.is_damaged is not None and header.is_damaged():
            header = dataclasses.replace(header, corrupt_frames=1, warnings=(_DAMAGED,))
    return SampledFrames(
        frames=(pixels,) * count,
        timestamps_seconds=(0.0,) * count,
        info=_info(header, orientation, pixels),
        warnings=_warnings(header, warnings),
    )


def _sample_animation(file: BinaryIO, header: Header, pillow_format: str, count: int) -> SampledFrames:
    chosen = pictures_on_screen(header.delays, count)
    kept: dict[int, NDArray[np.uint8]] = {}
    warnings: list[ScoreWarning] = []
    orientation = _UPRIGHT
    if header.patches:
        profile, orientation = _shared_by_pictures(file, pillow_format)
        for index, canvas in enumerate(itertools.islice(canvases(file, header, pillow_format), chosen[-1] + 1)):
            if index in chosen:
                drawn, more = rgb_of(Image.fromarray(canvas), profile or header.profile, is_over_white=True)
                warnings += more
                kept[index] = orientation.upright(drawn)
        decoded = chosen[-1] + 1
    else:
        with open_picture(file, (pillow_format,)) as image:
            if getattr(image, "n_frames", 1) != len(header.delays):
                raise PictureFaultError("whose animation is damaged; give an undamaged copy")
            orientation = _orientation(image)
            for index in sorted(set(chosen)):
                image.seek(index)
                with decoding(image):
                    image.load()
                profile = image.info.get("icc_profile") or header.profile
                stored, more = rgb_of(image, profile, is_over_white=True)
                warnings += more
                kept[index] = orientation.upright(cropped(stored, header.clean_aperture))
        # WebP's pictures build on each other.
        decoded = chosen[-1] + 1 if pillow_format == "WEBP" else len(kept)
    starts = [0, *itertools.accumulate(header.delays)]
    warnings += few_frames_warnings(chosen, len(header.delays))
    return SampledFrames(
        frames=tuple(kept[index] for index in chosen),
        timestamps_seconds=tuple(float(starts[index] * header.delay_unit) for index in chosen),
        info=_info(
            header,
            orientation,
            kept[chosen[0]],
            frame_count=len(header.delays),
            duration_seconds=float(starts[-1] * header.delay_unit),
            decoded_frames=decoded,
        ),
        warnings=_warnings(header, warnings),
    )


def _shared_by_pictures(file: BinaryIO, pillow_format: str) -> tuple[bytes | None, Orientation]:
    """The ICC profile and the orientation of an APNG; GIF has neither."""
    if pillow_format != "PNG":
        return None, _UPRIGHT
    with open_picture(file, ("PNG",)) as image:
        return image.info.get("icc_profile"), _orientation(image)


def _with_first_page(image: TiffImageFile, header: Header, file_length: int) -> Header:
    """Goes to a TIFF's first page that is no smaller copy of another, and adds what it says."""
    with quiet():
        if _RAW_TAG in image.tag_v2:
            raise PictureFaultError("of a camera's raw data; develop it, and save it as PNG or TIFF")
        page = 0
        while image.tag_v2.get(_PAGE_KIND_TAG, 0) & _IS_COPY:
            page += 1
            if page == image.n_frames:
                raise PictureFaultError("that holds previews alone; give the picture itself")
            image.seek(page)
        check_size(image.size)
        tags = image.tag_v2
        for offsets, lengths in _DATA_TAGS:
            ends = (
                offset + length for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)
            )
            if max(ends, default=0) > file_length:
                raise breaks_off()
        bits = tags.get(_BITS_TAG, (8,))[0]
        is_deep = image.mode == "RGB" and bits == 16
        # Of deep grey samples Pillow hands on the numbers alone.
        is_deep_grey = image.mode.startswith("I;16")
        largest = 2**bits - 1 if is_deep_grey else 65535
        is_inverted = is_deep_grey and tags.get(_MEANING_TAG) == _WHITE_IS_ZERO
        return dataclasses.replace(
            header,
            pixel_format="rgb48le" if is_deep else None,
            bit_depth=bits if is_deep or is_deep_grey else None,
            grey_range=(largest, 0) if is_inverted else (0, largest),
            sample_aspect_ratio=aspect_ratio(*(_number(tags.get(tag)) for tag in (_ACROSS_TAG, _DOWN_TAG))),
        )


def _number(value: object) -> Fraction:
    """A tag's number; zero where there is none, or none that means anything (72/0)."""
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError, AttributeError):
        return Fraction(value.numerator, value.denominator)  # type: ignore[attr-defined]
    return Fraction(0)


def _with_pixel_format(image: Image.Image, header: Header) -> Header:
    if header.pixel_format is not None:
        return header
    is_bmp = image.format == "BMP"
    name, bits = (
        _BMP_PIXEL_FORMATS.get(image.mode, _BMP_PALETTE)
        if is_bmp
        else _PIXEL_FORMATS.get(image.mode, (image.mode.lower(), 8))
    )
    is_grey = name.startswith(("gray", "ya", "mono"))
    return dataclasses.replace(
        header,
        pixel_format=name,
        bit_depth=header.bit_depth or bits,
        matrix="gray" if is_grey else header.matrix,
    )


def _orientation(image: Image.Image) -> Orientation:
    """The orientation of the picture's EXIF block, which Pillow makes up for AVIF; a broken block has none."""
    with quiet(), contextlib.suppress(SyntaxError, ValueError, TypeError, KeyError, OSError, EOFError, struct.error):
        value = image.getexif().get(_ORIENTATION_TAG)
        if isinstance(value, int):
            return _ORIENTATIONS.get(value, _UPRIGHT)
    return _UPRIGHT


def _warnings(header: Header, more: Iterable[ScoreWarning]) -> tuple[ScoreWarning, ...]:
    """All there is to be said, each once."""
    return tuple(dict.fromkeys((*header.warnings, *more, *hdr_warnings(header.transfer))))


def _info(
    header: Header,
    orientation: Orientation,
    pixels: NDArray[np.uint8],
    *,
    frame_count: int = 1,
    duration_seconds: float = 0.0,
    decoded_frames: int = 1,
) -> VideoInfo:
    height, width, _ = pixels.shape
    return VideoInfo(
        width=width,
        height=height,
        frame_count=frame_count,
        duration_seconds=duration_seconds,
        frame_rate_hz=frame_count / duration_seconds if duration_seconds else None,
        decoder="pillow",
        codec=header.codec,
        pixel_format=header.pixel_format or "rgb24",
        bit_depth=header.bit_depth or 8,
        rotation_degrees=orientation.rotation_degrees,
        is_mirrored=orientation.is_mirrored,
        color_matrix=header.matrix,
        is_color_matrix_declared=True,
        color_range=header.range,
        color_transfer=header.transfer,
        decoded_frames=decoded_frames,
        corrupt_frames=header.corrupt_frames,
        color_primaries=header.primaries,
        sample_aspect_ratio=header.sample_aspect_ratio,
        field_order="progressive",
        is_deinterlaced=False,
    )
