"""HEIC by pillow-heif, which is optional: HEVC is not free everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image

from diffvqa_rt.video.stills.header import PictureFaultError, check_size


def heic_size(file: BinaryIO) -> tuple[int, int]:
    """The width and the height of the file's primary picture, which is not decoded. Raises as `open_heic`."""
    return _opened(file).size


@contextmanager
def open_heic(file: BinaryIO) -> Iterator[Image.Image]:
    """The file's primary picture, upright, in 8 bits.

    Raises:
        PictureFaultError: pillow-heif is not installed.
    """
    opened = _opened(file)
    check_size(opened.size)
    with opened.to_pillow() as image:
        yield image


def _opened(file: BinaryIO) -> Any:
    try:
        import pillow_heif
    except ImportError as error:
        # Without the command, which names folders of this machine: servers answer strangers with this sentence.
        raise PictureFaultError(
            "that takes pillow-heif, the extra heic; `diffvqa doctor` says how to install it"
        ) from error
    file.seek(0)
    return pillow_heif.open_heif(file)
