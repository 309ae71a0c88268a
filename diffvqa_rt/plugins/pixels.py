"""Tensors of other libraries as what `Scorer` takes: RGB frames uint8 [T, H, W, 3]."""

import numpy as np
import torch
from numpy.typing import NDArray


def frames_of(videos: torch.Tensor) -> list[NDArray[np.uint8]]:
    """The frames of each video of a batch.

    Args:
        videos: [N, T, 3, H, W], or pictures [N, 3, H, W]; uint8, or floating point in [0, 1], rounded to 8 bits.

    Raises:
        TypeError: another dtype.
        ValueError: another shape, or values outside of [0, 1].
    """
    if videos.ndim not in (4, 5) or videos.shape[-3] != 3 or not videos.numel():
        raise ValueError(
            f"videos are of shape {tuple(videos.shape)}; expected [N, T, 3, H, W], or pictures as [N, 3, H, W]"
        )
    if videos.is_floating_point():
        low, high = videos.min().item(), videos.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"videos have values from {low:g} to {high:g}; expected 0 to 1, or uint8")
        videos = (videos.detach().float() * 255).round().to(torch.uint8)
    elif videos.dtype != torch.uint8:
        raise TypeError(f"videos are {videos.dtype}; expected uint8, or floating point from 0 to 1")
    if videos.ndim == 4:
        videos = videos[:, None]
    frames: NDArray[np.uint8] = np.ascontiguousarray(videos.permute(0, 1, 3, 4, 2).cpu().numpy())
    return list(frames)
