"""Pictures of a data set that are scored smaller than they are."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.video import sample_frames


def read_shrunk(path: Path, short_side: int) -> NDArray[np.uint8]:
    """A picture's pixels [H, W, 3], RGB, with a short side of `short_side`, or of its own where that is less.

    The aspect is kept, the long side cut to whole pixels, and the filter is Pillow's antialiased bicubic, as in
    https://github.com/miccunifi/ARNIQA (data/dataset_spaq.py). The decoder is the scorer's, in this process.

    Raises:
        VideoDecodeError: the picture cannot be read.
    """
    frame = sample_frames(path, 1).frames[0]
    height, width, _ = frame.shape
    if min(height, width) <= short_side:
        return frame
    size = (short_side, short_side * height // width) if width < height else (short_side * width // height, short_side)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
