"""Learning from opinions, whatever learns: batches of cached entries with labels, the loss, and agreement."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.training.data import LEAST_FOR_AGREEMENT
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.loop import Batch, StepBatches

ORDER_MARGIN = 0.04
"""The cost of a step of severity where no label says it, as a share of the score's range."""

_PAIR = 2


class Entries(Protocol):
    """The source of what is learned from: an `EntryCache`, or what makes a video's tensors each time."""

    def read(self, entry: CropOfVideo) -> Mapping[str, Tensor]:
        """The tensors of an entry. Raises DiffVQAError where there are none."""


class OpinionBatches(StepBatches):
    """Each epoch every video once, in an order of its own; of a ladder, two versions at a time, drawn anew each epoch.

    Gives, for this process's share of `batch` videos, the tensors of the entries, stacked, of a crop that is
    drawn each time; and `label`, `severity` and `unit` as `opinion_loss` takes them, labels on the opinions' range;
    with a number of `frames`, `frame_labels` too, [share, frames], NaN where there are none.
    """

    def __init__(
        self,
        videos: Sequence[LabelledVideo],
        entries: Entries,
        *,
        batch: int,
        crops: int,
        processes: int,
        seed: int,
        frames: int | None = None,
    ) -> None:
        super().__init__(seed, processes)
        self._entries, self._frames = entries, frames
        self._crops = crops
        self._drawn: tuple[int, list[list[LabelledVideo]]] | None = None
        ladders: dict[str, list[LabelledVideo]] = {}
        for video in videos:
            ladders.setdefault(video.ladder or f"\0{video.name}", []).append(video)
        self._ladders = list(ladders.values())
        is_paired = any(len(ladder) > 1 for ladder in self._ladders)
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
        entries = [self._entries.read(CropOfVideo(video.path, int(crops[index]))) for video, index in videos]
        numbers = {
            "label": torch.tensor([np.nan if video.label is None else video.label for video, _ in videos]),
            "severity": torch.tensor([video.severity for video, _ in videos]),
            "unit": torch.tensor([index for _, index in videos]),
        }
        if self._frames is not None:
            unknown = (np.nan,) * self._frames
            numbers["frame_labels"] = torch.tensor([video.frame_labels or unknown for video, _ in videos])
        return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]} | numbers


def opinion_loss(
    score: Tensor,
    label: Tensor,
    severity: Tensor,
    unit: Tensor,
    distance: Callable[[Tensor], Tensor] = torch.abs,
) -> dict[str, Tensor]:
    """Mean distance of score − label over the labelled, and a hinge on the difference within pairs.

    A pair's better version is to score above the worse by the difference of their labels, or by `ORDER_MARGIN` a step
    of severity where a label is missing.

    Args:
        score, label: [B], shares of the range; a label is NaN where there is none.
        severity, unit: [B] int64; what shares a `unit` is a pair.
        distance: of a difference, element by element.

    Returns:
        `loss`, of which `order` is the hinge; and `l1`, the mean |score − label|.
    """
    has_label = ~label.isnan()
    difference = (score - label)[has_label]
    count = has_label.sum().clamp(min=1)
    better, worse = torch.nonzero((unit[:, None] == unit) & (severity[:, None] < severity), as_tuple=True)
    by_label = (label[better] - label[worse]).clamp(min=0)
    margin = torch.where(by_label.isnan(), ORDER_MARGIN * (severity[worse] - severity[better]), by_label)
    order = F.relu(margin - (score[better] - score[worse])).sum() / max(len(better), 1)
    return {"loss": distance(difference).sum() / count + order, "l1": difference.abs().sum() / count, "order": order}


def frame_opinion_loss(scores: Tensor, labels: Tensor, severity: Tensor, unit: Tensor) -> dict[str, Tensor]:
    """`opinion_loss` of the means over the frames, and the mean |score − label| over the frames that have a label.

    Args:
        scores, labels: [B, N], shares of the range; a label is NaN where there is none.
        severity, unit: as `opinion_loss` takes them.

    Returns:
        `loss`, which `frames_l1` is part of, and the others of `opinion_loss`.
    """
    of_means = opinion_loss(scores.mean(dim=1), labels.mean(dim=1), severity, unit)
    known = ~labels.isnan()
    frames_l1 = (scores - labels)[known].abs().sum() / known.sum().clamp(min=1)
    return of_means | {"loss": of_means["loss"] + frames_l1, "frames_l1": frames_l1}


def agreement_scalars(scores: NDArray[np.float64], videos: Sequence[LabelledVideo]) -> dict[str, float]:
    """SRCC and PLCC with the labels, each video once; none where fewer than three have one."""
    labelled = {
        video.name: (score, video.label) for video, score in zip(videos, scores, strict=True) if video.label is not None
    }
    if len(labelled) < LEAST_FOR_AGREEMENT:
        return {}
    predicted, labels = np.array(list(labelled.values()), float).T
    return {
        "srcc": float(spearmanr(predicted, labels).statistic),
        "plcc": float(pearsonr(predicted, labels).statistic),
    }


def write_scores(path: Path, videos: Sequence[LabelledVideo], scores: NDArray[np.float64]) -> None:
    """Writes a CSV file `video,score` for `diffvqa evaluate --scores`."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "score"])
        # A pristine clip is in every ladder of its scene.
        writer.writerows(dict(zip((video.name for video in videos), scores, strict=True)).items())
