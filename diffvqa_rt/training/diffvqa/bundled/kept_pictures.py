"""What is learned from a synthetic set's kept views: their features, and pictures drawn out of them into one array."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffvqa_rt.metrics.diffvqa.engines import PIXELS
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.synthetic.views import read_views
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.loop import Batch, OnProgress, StepBatches

_WHOLE = 0


def kept_views(entry: CropOfVideo) -> Tensor:
    """The views of an entry as the network takes them, uint8 [2N, 3, S, S]; `crop` counts the kept crops."""
    kept = read_views(entry.path)
    both = np.stack([kept[_WHOLE], kept[1 + entry.crop]], axis=1)
    return torch.from_numpy(both.reshape(-1, *both.shape[2:]))


def draw_pictures(
    videos: Sequence[LabelledVideo], count: int, seed: int, on_progress: OnProgress | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pictures [count, 3, S, S] of videos and frames at random, in any of their views, and labels [count].

    A label is the frame's, on the score's range; NaN where there is none, and of the whole frame's view, in which a
    large picture's damage hardly shows.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, count))))
    labels = np.full(count, math.nan, np.float32)
    pictures: NDArray[np.uint8] | None = None
    for row in range(count):
        video = videos[int(generator.integers(len(videos)))]
        views = read_views(video.path)
        view, frame = int(generator.integers(len(views))), int(generator.integers(views.shape[1]))
        if pictures is None:
            pictures = np.empty((count, *views.shape[2:]), np.uint8)
        pictures[row] = views[view, frame]
        if view != _WHOLE and video.frame_labels is not None:
            labels[row] = video.frame_labels[frame]
        if on_progress:
            on_progress(row + 1, count)
    assert pictures is not None
    return pictures, labels


class KeptPictures(StepBatches):
    """Step s gives `batch` of the pictures: `pictures` [batch, 3, S, S] in [−1, 1].

    Args:
        path: an array file [count, 3, S, S] uint8.
        labels: an array file [count], where batches are to have `label` too, as shares of a range of 0 to 100.
    """

    def __init__(self, path: Path, *, labels: Path | None = None, batch: int, seed: int) -> None:
        super().__init__(seed)
        self._path, self._labels, self._batch = path, labels, batch

    def __getitem__(self, step: int) -> Batch:
        # Opened each time, which costs nothing: an open map would travel to a worker with all that is in it.
        pictures: NDArray[np.uint8] = np.load(self._path, mmap_mode="r")
        rows = np.sort(self.generator(step).choice(len(pictures), self._batch, replace=False))
        batch = {"pictures": torch.from_numpy(PIXELS.normalize(pictures[rows]))}
        if self._labels is not None:
            batch["label"] = torch.from_numpy(np.load(self._labels)[rows] / 100)
        return batch
