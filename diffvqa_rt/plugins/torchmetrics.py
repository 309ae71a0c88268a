"""A metric of torchmetrics: the mean score of all videos that it has seen, over all processes of a training run.

quality = MeanScore()
quality.update(videos)  # uint8 [N, T, 3, H, W], or paths
print(quality.compute())
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torchmetrics import Metric

from diffvqa_rt.engines.bundled import BUNDLED_ENGINES
from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.plugins.pixels import frames_of
from diffvqa_rt.results import ScoringFailure
from diffvqa_rt.scoring import Scorer
from diffvqa_rt.sources import VideoSource


class MeanScore(Metric):
    """The mean score of an engine folder's network.

    A copy, or one in another process, opens the engines for itself.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: torch.Tensor
    count: torch.Tensor

    def __init__(
        self,
        engines: str | os.PathLike[str] = BUNDLED_ENGINES,
        *,
        seed: int = 0,
        crops: int | None = None,
        backend: Any = "onnx",
        threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Opens the engines with the first update.

        Args:
            engines: the engine folder.
            seed, crops: as of `Scorer.score`.
            backend, threads: as of `Scorer.open`.
            kwargs: of torchmetrics' `Metric`.
        """
        super().__init__(**kwargs)
        self._opening: dict[str, Any] = {"folder": os.fspath(engines), "backend": backend, "threads": threads}
        self._options: dict[str, Any] = {"seed": seed, "crops": crops}
        self._scorer: Scorer | None = None
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, videos: torch.Tensor | Iterable[VideoSource], prompts: Sequence[str | None] | None = None) -> None:
        """Scores videos.

        Args:
            videos: uint8 or floating point in [0, 1], [N, T, 3, H, W] or pictures [N, 3, H, W]; or paths, encoded
                videos, and arrays, as of `Scorer.score_many`.
            prompts: for each the text that it was made from, of a network that takes one.

        Raises:
            VideoDecodeError: a video cannot be scored; none of the call counts.
            ValueError, TypeError: a tensor of another shape or dtype, or an option that the network does not have.
            EngineMismatchError: the engine folder is not as it was built.
        """
        if self._scorer is None:
            self._scorer = Scorer.open(**self._opening)
        sources = frames_of(videos) if isinstance(videos, torch.Tensor) else videos
        scores = []
        for result in self._scorer.score_many(sources, prompts=prompts, **self._options):
            if isinstance(result, ScoringFailure):
                raise VideoDecodeError(result.error)
            scores.append(result.score)
        self.total += sum(scores)
        self.count += len(scores)

    def compute(self) -> torch.Tensor:
        """The mean score so far, float64 []; NaN of no videos."""
        return self.total / self.count

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_scorer": None}
