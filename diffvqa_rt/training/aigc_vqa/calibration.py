"""The branches' numbers of many videos: how they agree with opinions, and how they come to their scale (SPEC §6)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.metrics.aigc_vqa.config import Calibration
from diffvqa_rt.metrics.aigc_vqa.fusion import ALIGNMENT, VISUAL
from diffvqa_rt.models.aigc_vqa.network import AigcVqa
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.training.aigc_vqa.clips import PromptedClips
from diffvqa_rt.training.aigc_vqa.objective import BranchNumbers
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.loop import read_ahead
from diffvqa_rt.training.opinions import agreement_scalars

Numbers = dict[str, NDArray[np.float64]]
"""Of some branches, by name, the numbers of videos, [videos] each."""


class _Clips(Dataset[dict[str, Tensor] | DiffVQAError]):
    """The tensors of each video with the seed that scoring has by default, or why there are none."""

    def __init__(self, videos: Sequence[LabelledVideo], clips: PromptedClips) -> None:
        self._videos, self._clips = videos, clips

    def __getitem__(self, index: int) -> dict[str, Tensor] | DiffVQAError:
        try:
            return self._clips.read(CropOfVideo(self._videos[index].path))
        except DiffVQAError as error:
            return error


@torch.no_grad()
def predict_numbers(
    network: AigcVqa,
    videos: Sequence[LabelledVideo],
    clips: PromptedClips,
    branches: tuple[str, ...],
    *,
    workers: int = 0,
) -> Numbers:
    """The numbers of the branches for each video, computed on the network's device.

    Raises:
        DiffVQAError: a video cannot be decoded.
    """
    network.eval()
    device = next(network.parameters()).device
    numbers = BranchNumbers(network, branches)
    rows = []
    for views in read_ahead(_Clips(videos, clips), range(len(videos)), workers):
        if isinstance(views, DiffVQAError):
            raise views
        rows.append(numbers(**{name: tensor[None].to(device) for name, tensor in views.items()})[0].double().cpu())
    return dict(zip(branches, torch.stack(rows).numpy().T, strict=True))


def fit_calibration(numbers: Numbers, opinions: NDArray[np.float64], start: Calibration) -> Calibration:
    """The calibration with which scores are nearest to the opinions, in squares.

    Args:
        numbers: of both visual branches, and of alignment where the videos have prompts; without it what a calibration
            has for prompts stays as `start` has it.
    """
    base = float(opinions.mean())
    means = {name: float(values.mean()) for name, values in numbers.items()}
    fitted = dataclasses.replace(start, base_visual=base, scale_visual=_slope(numbers, VISUAL, opinions), **means)
    if ALIGNMENT not in numbers:
        return fitted
    return dataclasses.replace(fitted, base=base, scale=_slope(numbers, (*VISUAL, ALIGNMENT), opinions))


def on_opinions_scale(numbers: Numbers, learned: Numbers, opinions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of the branches of some videos, on the scale that those of the opinions, `learned`, give."""
    slope = _slope(learned, tuple(learned), opinions)
    return opinions.mean() + slope * (_sum(numbers, tuple(learned)) - _sum(learned, tuple(learned)).mean())


def _sum(numbers: Numbers, branches: Sequence[str]) -> NDArray[np.float64]:
    return np.sum([numbers[name] for name in branches], axis=0)


def _slope(numbers: Numbers, branches: Sequence[str], opinions: NDArray[np.float64]) -> float:
    """The slope of the opinions over the branches' sum, by least squares; 0 where that is the same for all videos."""
    total = _sum(numbers, branches)
    deviations = total - total.mean()
    squares = float(deviations @ deviations)
    return float(deviations @ (opinions - opinions.mean())) / squares if squares else 0.0


def main_score(scores: NDArray[np.float64], videos: Sequence[LabelledVideo]) -> dict[str, float]:
    """SRCC, PLCC and `main`, their mean; none where fewer than three videos have an opinion."""
    found = agreement_scalars(scores, videos)
    return {**found, "main": (found["srcc"] + found["plcc"]) / 2} if found else {}


def agreement_lines(numbers: Numbers, videos: Sequence[LabelledVideo]) -> list[str]:
    """A line for each branch, and one for their sum where they are several; none of fewer than three opinions."""
    scores = dict(numbers)
    if len(numbers) > 1:
        scores["sum"] = _sum(numbers, tuple(numbers))
    return [
        f"{name}: " + ", ".join(f"{what} {value:.4f}" for what, value in found.items())
        for name, values in scores.items()
        if (found := main_score(values, videos))
    ]
