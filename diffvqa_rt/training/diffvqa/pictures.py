"""Batches of pictures from a folder of videos and images, as the extractor sees them: what adaptation learns on."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from diffvqa_rt.decoding import shared_decoder
from diffvqa_rt.errors import TrainingError, VideoDecodeError
from diffvqa_rt.metrics.diffvqa.config import VIEWS
from diffvqa_rt.metrics.diffvqa.engines import PIXELS
from diffvqa_rt.metrics.diffvqa.views import cut_views
from diffvqa_rt.training.loop import Batch, StepBatches
from diffvqa_rt.video import MAX_SEED

logger = logging.getLogger(__name__)

_ATTEMPTS = 20


class PictureBatches(StepBatches):
    """Step s gives a share of `batch` pictures: `pictures` [batch / processes, 3, size, size] in [−1, 1].

    Files are drawn at random, `per_file` pictures of each. A picture is one of the `frames` that scoring would sample,
    in either view, the crop at a random place. What cannot be decoded is named in the log, and another file is drawn in
    its place.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        batch: int,
        per_file: int,
        frames: int,
        size: int,
        seed: int,
        processes: int = 1,
    ) -> None:
        super().__init__(seed, processes)
        if batch % per_file:
            raise ValueError(f"batch is {batch}; expected a multiple of per_file ({per_file})")
        self.share_of(batch)
        self._files = list(files)
        self._batch, self._per_file, self._frames, self._size = batch, per_file, frames, size
        self._refused: set[Path] = set()

    def __getitem__(self, step: int) -> Batch:
        share = self.share_of(self._batch)
        # Each file's pictures are drawn for themselves, so that no process has to know which files another could not
        # decode. A file whose pictures two processes share is decoded by both.
        first, last = share[0] // self._per_file, share[-1] // self._per_file
        drawn = np.concatenate([self._draw(self.generator(step, part)) for part in range(first, last + 1)])
        at = share[0] - first * self._per_file
        return {"pictures": torch.from_numpy(PIXELS.normalize(drawn[at : at + len(share)]))}

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        for _ in range(_ATTEMPTS):
            path = self._files[int(generator.integers(len(self._files)))]
            chosen = np.sort(generator.choice(self._frames, self._per_file, replace=self._per_file > self._frames))
            views, seed = generator.integers(len(VIEWS), size=self._per_file), int(generator.integers(MAX_SEED))
            try:
                sampled = shared_decoder().frames(path, self._frames)
            except VideoDecodeError as error:
                if path not in self._refused:
                    logger.warning("left out: %s", error)
                self._refused.add(path)
                continue
            both = cut_views([sampled.frames[index] for index in chosen], self._size, seed)[0]
            return both[np.arange(self._per_file) * len(VIEWS) + views]
        raise TrainingError(f"{_ATTEMPTS} files in a row cannot be decoded, the last of them {path}")
