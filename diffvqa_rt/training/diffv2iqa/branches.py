"""Training the quality branches on cached crops (SPEC §8): squared error to opinions, encoders frozen."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffvqa_rt.metrics.diffv2iqa.config import PICTURES, DiffV2IQAConfig
from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.training.entry_cache import CropOfVideo, EntryCache
from diffvqa_rt.training.loop import Objective
from diffvqa_rt.training.opinions import agreement_scalars, opinion_loss


def with_new_branches(network: DiffV2IQA, config: DiffV2IQAConfig, seed: int) -> DiffV2IQA:
    """The network's restorer and encoders, with branches of `config` that have seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = DiffV2IQA(config)
    for name in ("restorer", "vit", "resnet"):
        part, kept = getattr(fresh, name), getattr(network, name)
        if part is not None and kept is not None:
            part.load_state_dict(kept.state_dict())
    return fresh.eval()


def pixels_of(entry: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The four pictures of cached entries, [V, 3, S, S] in [−1, 1]."""
    return {name: entry[name].float() / 127.5 - 1 for name in PICTURES}


class BranchesObjective(Objective):
    """Squared error of Score_final to the opinion, both as shares of the range (eq. 11, D31), mean over the pictures.

    Half of the pictures are mirrored left to right, all four of a view alike (D30). Encoders learn nothing unless
    `trains_encoders`, and stay in evaluation mode even then: batches are too small for a BatchNorm's statistics (D28).

    Args of `forward`: as `OpinionBatches` gives them from a `RestoredCache`.
    """

    def __init__(self, network: DiffV2IQA, *, trains_encoders: bool = False) -> None:
        super().__init__()
        names = ("vcg", "vda", *(("vit", "resnet") if trains_encoders else ()))
        learning = {name: part for name in names if (part := getattr(network, name)) is not None}
        # Before the network, which has the last word on what is in training mode.
        self.trained: nn.ModuleDict = nn.ModuleDict(learning).requires_grad_(True)
        self.network = network
        self._trains_encoders = trains_encoders

    def forward(self, label: Tensor, severity: Tensor, unit: Tensor, **entry: Tensor) -> dict[str, Tensor]:
        is_mirrored = (torch.rand(len(label), device=label.device) < 0.5)[:, None, None, None]
        pictures = [torch.where(is_mirrored, p.flip(3), p) for p in pixels_of(entry).values()]
        with torch.set_grad_enabled(self._trains_encoders and torch.is_grad_enabled()):
            maps = self.network.encode(*pictures)
        score = self.network.predict(maps).branch_scores.float().sum(1)
        low, high = self.network.config.score_range
        return opinion_loss(score, (label - low) / (high - low), severity, unit, torch.square)


@torch.no_grad()
def predict_pictures(
    network: DiffV2IQA, pictures: Sequence[LabelledVideo], cache: EntryCache, crops: int
) -> NDArray[np.float64]:
    """The score of each picture, the mean over its first `crops` crops, [len(pictures)], on the network's device."""
    network.eval()
    device = next(network.parameters()).device
    scores = []
    for picture in pictures:
        entries = [cache.read(CropOfVideo(picture.path, crop)) for crop in range(crops)]
        stacked: dict[str, Tensor] = {
            name: torch.stack([entry[name] for entry in entries]).to(device) for name in PICTURES
        }
        scores.append(float(network(**pixels_of(stacked)).view_scores.mean()))
    return np.array(scores)


def agreement_line(scores: NDArray[np.float64], pictures: Sequence[LabelledVideo], config: DiffV2IQAConfig) -> str:
    """The agreement of scores with labels: the mean |score − label| as a share of the range, SRCC and PLCC."""
    labels = np.array([np.nan if picture.label is None else picture.label for picture in pictures], float)
    low, high = config.score_range
    found = {"L1": f"{np.abs(scores - labels)[~np.isnan(labels)].mean() / (high - low):.2%} of the range"}
    found |= {name: f"{value:.4f}" for name, value in agreement_scalars(scores, pictures).items()}
    count = len({picture.name for picture in pictures})
    return f"{count} pictures: " + ", ".join(f"{name} {value}" for name, value in found.items())
