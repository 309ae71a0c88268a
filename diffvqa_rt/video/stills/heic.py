"""HEIC by pillow-heif, which is optional: HEVC is not free everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image

from diffvqa_rt.video.stills.header import PictureFaultError, check_size


@contextmanager
def open_heic(file: BinaryIO) -> Iterator[Image.Image]:
    """The file's primary picture, upright, in 8 bits.

    Raises:
        PictureFaultError: pillow-heif is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise PictureFaultError('that takes pillow-heif; pip install "diffvqa-rt[heic]"') from error
    file.seek(0)
    opened = pillow_heif.open_heif(file)
    check_size(opened.size)
    with opened.to_pillow() as image:
        yield image
