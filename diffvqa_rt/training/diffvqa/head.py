"""Training the head (SPEC §3) on cached features: L1 to opinions, and their order where only that is known."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.models.diffvqa.network import DiffVQA, Head
from diffvqa_rt.models.diffvqa.tcab import MambaBlock
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.training.diffvqa.features import CropOfVideo, FeatureCache
from diffvqa_rt.training.loop import Batch, Objective, StepBatches

ORDER_MARGIN = 0.04
"""The cost of a step of severity where no label says it, as a share of the score's range."""

_FEATURES = ("features_0", "features_1", "features_2", "features_3")
_PAIR = 2
_LEAST_FOR_AGREEMENT = 3


class HeadBatches(StepBatches):
    """Each epoch every video once, in an order of its own; of a ladder, two versions at a time, drawn anew each epoch.

    Gives what `HeadObjective.forward` takes, for this process's share of `batch` videos.
    """

    def __init__(
        self,
        videos: Sequence[LabelledVideo],
        cache: FeatureCache,
        *,
        batch: int,
        crops: int,
        processes: int,
        seed: int,
    ) -> None:
        super().__init__(seed, processes)
        self._cache = cache
        self._crops = crops
        self._drawn: tuple[int, list[list[LabelledVideo]]] | None = None
        ladders: dict[str, list[LabelledVideo]] = {}
        for video in videos:
            ladders.setdefault(video.ladder or f"\0{video.name}", []).append(video)
        self._ladders = list(ladders.values())
        is_paired = max(len(ladder) for ladder in self._ladders) > 1
        if is_paired and batch % _PAIR:
            raise ValueError(f"batch is {batch}; expected an even number, since versions come in pairs")
        if is_paired and batch % (_PAIR * processes):
            raise ValueError(
                f"batch is {batch}, of all processes together; expected a multiple of {_PAIR * processes}, since "
                f"versions come in pairs, which {processes} processes share"
            )
        self._units_per_batch = batch // _PAIR if is_paired else batch
        self.share_of(self._units_per_batch)
        units = sum(-(-len(ladder) // _PAIR) for ladder in self._ladders)
        self.steps_per_epoch = units // self._units_per_batch
        if not self.steps_per_epoch:
            raise TrainingError(f"{len(videos)} videos are fewer than a step's {batch}; lower --batch")

    def _units(self, epoch: int) -> list[list[LabelledVideo]]:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)
        return self._drawn[1]

    def _draw(self, epoch: int) -> list[list[LabelledVideo]]:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch))))
        units = []
        for ladder in self._ladders:
            order = generator.permutation(len(ladder))
            units += [[ladder[i] for i in order[at : at + _PAIR]] for at in range(0, len(ladder), _PAIR)]
        return [units[index] for index in generator.permutation(len(units))]

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        share = self.share_of(self._units_per_batch)
        first = place * self._units_per_batch
        units = self._units(epoch)[first + share.start : first + share.stop]
        crops = self.generator(step).integers(self._crops, size=self._units_per_batch)[share.start : share.stop]
        videos = [(video, index) for index, unit in enumerate(units) for video in unit]
        entries = [self._cache.read(CropOfVideo(video.path, int(crops[index]))) for video, index in videos]
        numbers = {
            "label": torch.tensor([np.nan if video.label is None else video.label for video, _ in videos]),
            "severity": torch.tensor([video.severity for video, _ in videos]),
            "unit": torch.tensor([index for _, index in videos]),
        }
        return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]} | numbers


def predict(head: Head, entry: dict[str, Tensor]) -> Tensor:
    """The scores [V] of entries stacked on a leading axis, as `FeatureCache.read` gives them."""
    frames = entry["frames"].float() / 127.5 - 1
    return head(entry["z0_hat"], [entry[name] for name in _FEATURES], frames).score


def opinion_loss(score: Tensor, label: Tensor, severity: Tensor, unit: Tensor) -> dict[str, Tensor]:
    """Mean |score − label| over the labelled, and a hinge on the difference within pairs; all as shares of the range.

    A pair's better version is to score above the worse by the difference of their labels, or by `ORDER_MARGIN` a step
    of severity where a label is missing.

    Args:
        score, label: [B]; NaN where there is no label.
        severity, unit: [B] int64; what shares a `unit` is a pair.
    """
    has_label = ~label.isnan()
    l1 = (score - label)[has_label].abs().sum() / has_label.sum().clamp(min=1)
    better, worse = torch.nonzero((unit[:, None] == unit) & (severity[:, None] < severity), as_tuple=True)
    by_label = (label[better] - label[worse]).clamp(min=0)
    margin = torch.where(by_label.isnan(), ORDER_MARGIN * (severity[worse] - severity[better]), by_label)
    order = F.relu(margin - (score[better] - score[worse])).sum() / max(len(better), 1)
    return {"loss": l1 + order, "l1": l1, "order": order}


class HeadObjective(Objective):
    """`opinion_loss` of the head's scores; args of `forward` as `HeadBatches` gives them."""

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


def agreement_scalars(scores: NDArray[np.float64], videos: Sequence[LabelledVideo]) -> dict[str, float]:
    """SRCC and PLCC with the labels, each video once; none where fewer than three have one."""
    labelled = {
        video.name: (score, video.label) for video, score in zip(videos, scores, strict=True) if video.label is not None
    }
    if len(labelled) < _LEAST_FOR_AGREEMENT:
        return {}
    predicted, labels = np.array(list(labelled.values()), float).T
    return {
        "srcc": float(spearmanr(predicted, labels).statistic),
        "plcc": float(pearsonr(predicted, labels).statistic),
    }
