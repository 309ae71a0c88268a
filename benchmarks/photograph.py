"""A photograph of 12 megapixels, as a telephone makes them: no such picture is in the repository."""

from pathlib import Path

import numpy as np
from PIL import Image

from diffvqa_rt.video import sample_frames

WIDTH, HEIGHT = 4000, 3000
# Grey levels of a sensor's noise, which is what most of a photograph's bytes are spent on: it makes a file of 2.7 MB.
_NOISE = 6


def make_photograph(clip: Path, path: Path) -> Path:
    """Writes a frame of the clip as a JPEG of this size, with noise. Returns the path."""
    (frame,) = sample_frames(clip, 1).frames
    enlarged = Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).standard_normal((HEIGHT, WIDTH, 3), np.float32) * _NOISE
    pixels = np.clip(np.asarray(enlarged) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path
