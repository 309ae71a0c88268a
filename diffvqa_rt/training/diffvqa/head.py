"""Training the head (SPEC §3) on cached features: L1 to opinions, and their order where only that is known."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffvqa_rt.models.diffvqa.network import DiffVQA, Head
from diffvqa_rt.models.diffvqa.tcab import MambaBlock
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.training.diffvqa.features import FeatureCache
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.loop import Objective
from diffvqa_rt.training.opinions import opinion_loss

_FEATURES = ("features_0", "features_1", "features_2", "features_3")


def predict(head: Head, entry: dict[str, Tensor]) -> Tensor:
    """The scores [V] of entries stacked on a leading axis, as `FeatureCache.read` gives them."""
    frames = entry["frames"].float() / 127.5 - 1
    return head(entry["z0_hat"], [entry[name] for name in _FEATURES], frames).score


class HeadObjective(Objective):
    """`opinion_loss` of the head's scores; args of `forward` as `OpinionBatches` gives them."""

    recomputed = (MambaBlock,)

    def __init__(self, network: DiffVQA) -> None:
        super().__init__()
        self.trained: Head = network.head
        low, high = network.config.score_range
        self._range = high - low

    def forward(self, label: Tensor, severity: Tensor, unit: Tensor, **entry: Tensor) -> dict[str, Tensor]:
        score = predict(self.trained, entry).float() / self._range
        return opinion_loss(score, label / self._range, severity, unit)


@torch.no_grad()
def predict_videos(network: DiffVQA, videos: Sequence[LabelledVideo], cache: FeatureCache) -> NDArray[np.float64]:
    """The score of each video at crop 0, in evaluation mode, [len(videos)], on the head's device."""
    network.head.eval()
    device = next(network.head.parameters()).device
    scores = []
    for video in videos:
        entry = cache.read(CropOfVideo(video.path))
        scores.append(float(predict(network.head, {name: x[None].to(device) for name, x in entry.items()})))
    return np.array(scores)
