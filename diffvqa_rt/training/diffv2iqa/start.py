"""The networks that DiffV²IQA's training starts from."""

from pathlib import Path

import torch

from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig
from diffvqa_rt.metrics.diffv2iqa.presets import PRESETS
from diffvqa_rt.models.diffv2iqa.checkpoints import load_weights
from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA
from diffvqa_rt.training.diffv2iqa.restoration import start_as_copy


def network_to_restore_with(preset: str, weights: Path | None, seed: int) -> DiffV2IQA:
    """The network of a weights file of ours, or else a preset's with seeded weights that have learned nothing.

    Raises:
        ValueError: the file cannot be read, or does not hold such a network.
    """
    if weights is not None:
        return load_weights(weights)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiffV2IQA(PRESETS[preset])
    start_as_copy(network.restorer)
    return network.eval()


def check_side(config: DiffV2IQAConfig, side: int) -> None:
    """Raises ValueError where a restorer cannot take pictures of this side, or they are larger than a view."""
    halvings = 2 ** (len(config.restorer.channels) - 1)
    if side % halvings or side > config.view_size:
        raise ValueError(
            f"crop side is {side}; expected a multiple of {halvings}, for the restorer's levels, and at most "
            f"{config.view_size}, the view's side"
        )
