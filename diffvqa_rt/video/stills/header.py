"""The facts that a picture file states before it is decoded, and the faults that keep it from being decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, Literal

from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.video.container import MAX_FRAME_PIXELS
from diffvqa_rt.video.presentation import Orientation

# For a delay of 10 ms or less, as in browsers: nobody means a hundred pictures a second, or infinitely many.
_INSTANT_DELAY_SECONDS = Fraction(1, 10)

BROKEN_OFF = ScoreWarning("broken-off", "it breaks off or lacks its end mark; only whole pictures are scored")


class PictureFaultError(Exception):
    """A picture cannot be decoded; the message goes on from "NAME is a PNG picture"."""


def breaks_off() -> PictureFaultError:
    return PictureFaultError("that breaks off before its end; give the complete file")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patch:
    """One picture of a GIF or APNG: a rectangle that changes the canvas.

    Attributes:
        box: left, top, width and height.
        disposal: what becomes of the rectangle before the next picture.
        background: RGBA that `disposal` background leaves.
        blends: whether it goes over what is there, in place of replacing it.
        ranges: the offsets and lengths of its data in the file.
        encode: makes of that data a file of one picture that Pillow opens.
    """

    box: tuple[int, int, int, int]
    disposal: Literal["keep", "background", "previous"]
    background: tuple[int, int, int, int]
    blends: bool
    ranges: tuple[tuple[int, int], ...]
    encode: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Header:
    """The facts that a picture file states of itself.

    Attributes:
        size: width and height as stored; None where only Pillow reads them.
        pixel_format: ffmpeg's name; None where it follows from Pillow's mode.
        delays: of an animation's pictures, in units of `delay_unit` seconds, each above zero; empty for a still.
        profile: an ICC profile of the colours that are declared by codes, for where there is none in the file.
        clean_aperture: AVIF's crop, as its box has it: numerators and denominators of width, height and the centre's
            distance from the picture's centre.
        decoded_upright_by: the turn that the decoder makes by itself, where it then does not tell of it.
        grey_range: the samples of more than 8 bits that are black and white.
        canvas: RGBA of a GIF's or APNG's canvas before its first picture.
        patches: the pictures of a GIF or APNG, whole ones only.
        content: the one picture's bytes, where the file holds more than that picture.
        is_damaged: looks closer at that picture's data.
        corrupt_frames: how many pictures are known to be incomplete.
    """

    codec: str
    size: tuple[int, int] | None = None
    pixel_format: str | None = None
    bit_depth: int | None = None
    matrix: str = "rgb"
    range: str = "full"
    transfer: str = "unspecified"
    primaries: str = "unspecified"
    sample_aspect_ratio: str | None = None
    delays: tuple[int, ...] = ()
    delay_unit: Fraction = Fraction(1)
    profile: bytes | None = None
    clean_aperture: tuple[int, ...] = ()
    decoded_upright_by: Orientation | None = None
    grey_range: tuple[int, int] = (0, 65535)
    canvas: tuple[int, int, int, int] = (0, 0, 0, 0)
    patches: tuple[Patch, ...] = ()
    content: bytes | None = None
    is_damaged: Callable[[], bool] | None = None
    corrupt_frames: int = 0
    warnings: tuple[ScoreWarning, ...] = ()


def aspect_ratio(across: int | Fraction, down: int | Fraction) -> str | None:
    """A pixel's width to its height, from how many of them there are to a length, across and down."""
    if across <= 0 or down <= 0:
        return None
    ratio = Fraction(down, across)
    return f"{ratio.numerator}:{ratio.denominator}"


def shown_delay(delay: Fraction) -> Fraction:
    """The seconds for which a picture with such a delay is shown."""
    return delay if delay > Fraction(1, 100) else _INSTANT_DELAY_SECONDS


def check_size(size: tuple[int, int]) -> None:
    """Refuses a picture by its header.

    Raises:
        PictureFaultError: it has more pixels than are decoded, or none.
    """
    width, height = size
    if width * height > MAX_FRAME_PIXELS:
        raise PictureFaultError(
            f"of {width:,} x {height:,} pixels; at most {MAX_FRAME_PIXELS:,} pixels a picture are decoded"
        )
    if width < 1 or height < 1:
        raise PictureFaultError("without pixels; give another file")


def read_up_to(file: BinaryIO, offset: int, length: int) -> bytes:
    """The bytes that are there, `length` at most."""
    file.seek(offset)
    return file.read(length)


def read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    """Exactly `length` bytes.

    Raises:
        PictureFaultError: the file ends before.
    """
    data = read_up_to(file, offset, length)
    if len(data) < length:
        raise breaks_off()
    return data
