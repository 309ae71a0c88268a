"""A picture that Pillow decoded as 8-bit sRGB pixels.

An ICC profile is applied, by its perceptual intent; so are the primaries of Display P3 and BT.2020 that codes declare
(cICP, nclx). Not done: conversion by gAMA and cHRM, tone mapping. Alpha of a still is ignored, as in videos; what moves
is laid over white, as a page shows it.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.video.stills.header import PictureFaultError

_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# A profile that moves no sample colour further than this is sRGB by another name, and moves none at all.
_SRGB_TOLERANCE = 2
_BAD_PROFILE = ScoreWarning("profile-ignored", "its ICC profile cannot be applied; its colours are taken for sRGB")
_OVER_WHITE = ScoreWarning("transparency-over-white", "where it is transparent, it is scored over white")
_ALL_SAMPLES = (0, 65535)


def rgb_of(
    image: Image.Image,
    profile: bytes | None,
    grey_range: tuple[int, int] = _ALL_SAMPLES,
    *,
    is_over_white: bool = False,
) -> tuple[NDArray[np.uint8], tuple[ScoreWarning, ...]]:
    """The pixels, [H, W, 3] uint8 RGB by the ICC profile, not turned, and what is to be said of them.

    `grey_range` has the samples that are black and white in a grey picture of more than 8 bits. Alpha is ignored, or
    with `is_over_white` the picture is laid over white.

    Raises:
        PictureFaultError: its samples have no known scale.
    """
    alpha = _alpha_of(image) if is_over_white else None
    rgb, warnings = _opaque_rgb_of(image, profile, grey_range)
    if alpha is None or alpha.min() == 255:
        return rgb, warnings
    opacity = alpha[..., None].astype(np.uint16)
    laid = (rgb * opacity + 255 * (255 - opacity) + 127) // 255
    return laid.astype(np.uint8), (*warnings, _OVER_WHITE)


def _alpha_of(image: Image.Image) -> NDArray[np.uint8] | None:
    """The opacity, [H, W] uint8, None where all is opaque; so counts 16-bit grey with a transparent level."""
    if not image.has_transparency_data or image.mode.startswith("I"):
        return None
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _opaque_rgb_of(
    image: Image.Image, profile: bytes | None, grey_range: tuple[int, int]
) -> tuple[NDArray[np.uint8], tuple[ScoreWarning, ...]]:
    image = _in_eight_bits(image, grey_range)
    warnings: tuple[ScoreWarning, ...] = ()
    if profile:
        try:
            return np.asarray(_in_srgb(image, profile)), ()
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError, KeyError, ImportError):
            warnings = (_BAD_PROFILE,)
    return np.asarray(image.convert("RGB")), warnings


def rgba_of(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an animation's picture, [H, W, 4] uint8 RGBA; a profile is not applied."""
    return np.asarray(
        (image if image.mode == "P" else _in_eight_bits(image, _ALL_SAMPLES, keeps_alpha=True)).convert("RGBA")
    )


def _in_eight_bits(image: Image.Image, grey_range: tuple[int, int], *, keeps_alpha: bool = False) -> Image.Image:
    """The same in mode L, RGB or CMYK, and RGBA or LA if alpha is kept."""
    if image.mode in ("L", "RGB", "CMYK") or (keeps_alpha and image.mode in ("LA", "RGBA")):
        return image
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        black, white = grey_range
        span = abs(white - black)
        samples = np.abs(np.asarray(image).astype(np.int64) - black)
        return Image.fromarray(np.minimum((samples * 255 + span // 2) // span, 255).astype(np.uint8))
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return _transform(image, lab, "LAB")
    if image.mode in ("I", "F"):
        raise PictureFaultError(
            f"with {'floating-point' if image.mode == 'F' else '32-bit'} samples, whose black and white are unknown; "
            "save it with 8 or 16 bits"
        )
    # Pillow warns of an index made transparent, which is no loss here.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _in_srgb(image: Image.Image, encoded: bytes) -> Image.Image:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(encoded))
    mode = _PROFILE_MODES[profile.profile.xcolor_space.strip()]
    if mode != image.mode:
        # Grey pictures with an RGB profile are common, and mean its neutral axis.
        if (image.mode, mode) != ("L", "RGB"):
            raise ValueError(f"a profile of {mode} for a picture of {image.mode}")
        image = image.convert("RGB")
    if mode != "CMYK":
        probe = _probe(mode)
        moved = np.asarray(_transform(probe, profile, mode), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
        if np.abs(moved).max() <= _SRGB_TOLERANCE:
            return image.convert("RGB")
    return _transform(image, profile, mode)


def _probe(mode: str) -> Image.Image:
    """Greys, and for RGB a grid of colours."""
    greys = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(greys[None])
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    return Image.fromarray(np.concatenate([np.repeat(greys[:, None], 3, 1), grid])[None])


def _transform(image: Image.Image, profile: ImageCms.ImageCmsProfile, mode: str) -> Image.Image:
    transform = ImageCms.buildTransform(
        profile, ImageCms.createProfile("sRGB"), mode, "RGB", renderingIntent=ImageCms.Intent.PERCEPTUAL
    )
    turned = ImageCms.applyTransform(image, transform)
    assert turned is not None
    return turned
