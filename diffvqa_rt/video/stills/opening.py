"""Opening and decoding by Pillow under this package's rules, whatever the process has set and whoever sent the file."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video.stills.header import PictureFaultError, breaks_off, check_size

# The one of Pillow's that logs errors besides raising them.
_tiff_logger = logging.getLogger("PIL.TiffImagePlugin")

# Filters of warnings, and whether Pillow lets broken pictures pass, belong to the whole process.
_process_settings = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A child that is forked while another thread holds the lock would wait for ever.
    os.register_at_fork(
        before=_process_settings.acquire,
        after_in_parent=_process_settings.release,
        after_in_child=_process_settings.release,
    )


@contextmanager
def faults_told(name: str, title: str) -> Iterator[None]:
    """Makes a sentence about the picture `name` of whatever goes wrong; memory that runs out stays what it is.

    Raises:
        VideoDecodeError: anything else went wrong.
    """
    try:
        yield
    except (VideoDecodeError, MemoryError):
        raise
    except PictureFaultError as error:
        raise VideoDecodeError(f"{name} is {title} {error}") from error
    except Image.DecompressionBombError as error:
        raise VideoDecodeError(
            f"{name} is {title} with more pixels than this process allows (PIL.Image.MAX_IMAGE_PIXELS is "
            f"{Image.MAX_IMAGE_PIXELS:,}); scale it down"
        ) from error
    # Pillow's plugins raise anything on hostile bytes.
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        if "truncated" in reason:
            raise VideoDecodeError(f"{name} is {title} {breaks_off()}") from error
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "its header cannot be read"
        raise VideoDecodeError(
            f"{name} is {title} that does not decode (Pillow: {reason}); check that it is complete and undamaged"
        ) from error


@contextmanager
def open_picture(file: BinaryIO, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """The picture, its header read and its pixels not."""
    file.seek(0)
    with quiet():
        image = Image.open(file, formats=formats)
    with image:
        check_size(image.size)
        yield image


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Pillow's warnings from being printed, or raised where the process makes errors of them."""
    with _process_settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _tiff_logger.addFilter(_let_nothing_pass)
        try:
            yield
        finally:
            _tiff_logger.removeFilter(_let_nothing_pass)


def _let_nothing_pass(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def decoding(image: Image.Image) -> Iterator[None]:
    """Has Pillow refuse pictures that break off, as it does unless the process has told it otherwise."""
    with contextlib.ExitStack() as stack:
        if image.format == "TIFF" or ImageFile.LOAD_TRUNCATED_IMAGES:
            # TIFF's metadata is read, and warned of, after its pixels.
            stack.enter_context(quiet())
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            stack.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", True)
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        yield
