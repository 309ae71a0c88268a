"""The views of a clip that networks learn from, cut while the clip exists: a large one is then not needed any more."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.checks import whole
from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.video.crops import RgbFrame, crop_places, crop_region
from diffvqa_rt.video.texture import texture_places

Views = NDArray[np.uint8]
"""[1 + crops, N, 3, S, S] of a clip's N sampled frames: the whole frame, resized; then pieces of it, untouched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewsConfig:
    """The views that a set keeps of a clip: so many frames, crops at random places and where the texture is."""

    frames: int = 8
    size: int = 192
    random_crops: int = 2
    texture_crops: int = 1

    def __post_init__(self) -> None:
        for name, least in [("frames", 1), ("size", 16), ("random_crops", 0), ("texture_crops", 0)]:
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        if not self.random_crops + self.texture_crops:
            raise ValueError("random_crops and texture_crops are 0; expected one crop at least")


def places_of(frames: Sequence[RgbFrame], config: ViewsConfig, key: str) -> NDArray[np.float64]:
    """The places of a scene's crops, [crops, 2] as fractions (x, y); the random ones by the key, the others by texture.

    All versions of a scene share them, so that what differs between two views of one place is the damage.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    textured = texture_places(frames[len(frames) // 2], config.size, config.texture_crops)
    return np.concatenate([crop_places(seed, config.random_crops), textured])


def cut_views(frames: Sequence[RgbFrame], config: ViewsConfig, places: NDArray[np.float64]) -> Views:
    """The views of sampled frames at these places."""
    size = config.size
    views = np.empty((1 + len(places), len(frames), size, size, 3), np.uint8)
    for index, frame in enumerate(frames):
        image = Image.fromarray(frame)
        views[0, index] = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
        for crop, place in enumerate(places, start=1):
            box = crop_region(*image.size, size, place)
            # Of a frame that is large enough, a copy.
            views[crop, index] = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return np.ascontiguousarray(np.moveaxis(views, -1, 2))


def write_views(path: Path, views: Views) -> None:
    """Writes an array file."""
    with open(path, "wb") as file:
        np.save(file, views)


def read_views(path: Path) -> Views:
    """A clip's views, mapped. Raises SyntheticSetError where they cannot be read."""
    try:
        views: Views = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise SyntheticSetError(f"{path} cannot be read ({error}); make the set again") from error
    return views
