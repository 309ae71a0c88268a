"""The metrics in pyiqa: `register` is the entry point `diffvqa_rt` of its group `pyiqa.archs`.

pyiqa calls it when it first looks for a network by its type. `pyiqa.create_metric` knows names before that, so whoever
calls that calls `register` first:

    from diffvqa_rt.plugins.pyiqa import register

    register()
    metric = pyiqa.create_metric("diffv2iqa", engines="build/diffv2iqa-tiny")
    print(metric("photo.jpg"))
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.metrics.registry import METRICS, metric_named
from diffvqa_rt.plugins.pixels import frames_of
from diffvqa_rt.results import ScoringFailure
from diffvqa_rt.scoring import Scorer

NETWORK = "DiffVQART"
"""The type of network, in pyiqa's registry and its option files."""


def register() -> None:
    """Makes the metrics known to pyiqa, by our names; once more changes nothing."""
    ARCH_REGISTRY.register(ScoredByEngines, name=NETWORK, override=True)
    for name in METRICS:
        low, high = next(iter(metric_named(name).presets.values())).score_range
        DEFAULT_CONFIGS[name] = {
            "metric_opts": {"type": NETWORK, "metric": name},
            "metric_mode": "NR",
            "score_range": f"{low:g}, {high:g}",
        }


class ScoredByEngines(torch.nn.Module):
    """Scores pictures by an engine folder's network; a metric of videos sees a picture as a video of one frame."""

    def __init__(
        self,
        metric: str,
        engines: str | os.PathLike[str] | None = None,
        *,
        crop_seed: int = 0,
        crops: int | None = None,
        backend: Any = "onnx",
        threads: int | None = None,
    ) -> None:
        """Opens the engines.

        Args:
            metric: the name of the metric.
            engines: the engine folder.
            crop_seed: the seed of `Scorer.score`; pyiqa keeps an option of that name to itself.
            crops: as of `Scorer.score`.
            backend, threads: as of `Scorer.open`.

        Raises:
            TypeError: no engine folder is given.
            ValueError: the folder's engines are of another metric.
            EngineMismatchError: the folder is not as it was built.
        """
        super().__init__()
        if engines is None:
            raise TypeError(f"engines is missing; give the engine folder: create_metric({metric!r}, engines='build/…')")
        self._scorer = Scorer.open(engines, backend=backend, threads=threads)
        self._options: dict[str, Any] = {"seed": crop_seed, "crops": crops}
        if (found := self._scorer.manifest.metric_name) != metric:
            raise ValueError(f"engines is {os.fspath(engines)}, which is of {found}; expected engines of {metric}")

    def forward(self, pictures: torch.Tensor, prompts: Sequence[str] | None = None) -> torch.Tensor:
        """The scores, float64 [B, 1].

        Args:
            pictures: RGB [B, 3, H, W] in [0, 1].
            prompts: for each the text that it was made from, of a metric that takes one.

        Raises:
            VideoDecodeError: a picture cannot be scored.
            ValueError, TypeError: the tensor is of another shape, dtype or range.
        """
        scores = []
        for result in self._scorer.score_many(frames_of(pictures), prompts=prompts, **self._options):
            if isinstance(result, ScoringFailure):
                raise VideoDecodeError(result.error)
            scores.append(result.score)
        return torch.tensor(scores, dtype=torch.float64, device=pictures.device)[:, None]
