"""Training the head (SPEC §3) on cached features: L1 to opinions, and their order where only that is known."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffvqa_rt.metrics.diffvqa.engines import FEATURES
from diffvqa_rt.models.diffvqa.network import DiffVQA, Head, Prediction
from diffvqa_rt.models.diffvqa.tcab import MambaBlock
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.training.diffvqa.features import FeatureCache
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.loop import Objective
from diffvqa_rt.training.opinions import opinion_loss


def predict(head: Head, entry: Mapping[str, Tensor]) -> Prediction:
    """The head's results for entries stacked on a leading axis, as `FeatureCache.read` gives them."""
    frames = entry["frames"].float() / 127.5 - 1
    return head(entry["z0_hat"], [entry[name] for name in FEATURES], frames)


class HeadObjective(Objective):
    """`opinion_loss` of the head's scores, and where frames have labels of their own, the frame scores' distance.

    Args of `forward` as `OpinionBatches` gives them.

    Args:
        evenness: the weight of the frame weights' divergence from even ones, KL(w ‖ 1/N) in nats. Nothing else keeps
            them from falling on one frame, whatever it shows: a video's frames are mostly equally good.
    """

    recomputed = (MambaBlock,)

    def __init__(self, network: DiffVQA, *, evenness: float = 0.0) -> None:
        super().__init__()
        self.trained: Head = network.head
        self._evenness = evenness
        low, high = network.config.score_range
        self._range = high - low

    def forward(
        self,
        label: Tensor,
        severity: Tensor,
        unit: Tensor,
        frame_labels: Tensor | None = None,
        **entry: Tensor,
    ) -> dict[str, Tensor]:
        score, frame_scores, weights = predict(self.trained, entry)
        scalars = opinion_loss(score.float() / self._range, label / self._range, severity, unit)
        if frame_labels is not None:
            known = ~frame_labels.isnan()
            distance = (frame_scores - frame_labels)[known].abs().sum() / self._range
            scalars["frames_l1"] = distance / known.sum().clamp(min=1)
            scalars["loss"] = scalars["loss"] + scalars["frames_l1"]
        if self._evenness:
            even = (weights * (weights * weights.shape[1]).clamp(min=1e-12).log()).sum(dim=1).mean()
            scalars |= {"loss": scalars["loss"] + self._evenness * even, "unevenness": even}
        return scalars


@torch.no_grad()
def predict_videos(
    network: DiffVQA, videos: Sequence[LabelledVideo], cache: FeatureCache, crop: int = 0
) -> NDArray[np.float64]:
    """The score of each video at one crop, in evaluation mode, [len(videos)], on the head's device."""
    network.head.eval()
    device = next(network.head.parameters()).device
    scores = []
    for video in videos:
        entry = cache.read(CropOfVideo(video.path, crop))
        scores.append(float(predict(network.head, {name: x[None].to(device) for name, x in entry.items()}).score))
    return np.array(scores)
