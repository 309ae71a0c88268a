"""The network that a stage starts from."""

import dataclasses
from pathlib import Path

import torch

from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.metrics.aigc_vqa.presets import PRESETS
from diffvqa_rt.models.aigc_vqa.checkpoints import load_weights
from diffvqa_rt.models.aigc_vqa.network import AigcVqa
from diffvqa_rt.models.weights import network_from_state


def network_to_start_from(
    preset: str, weights: Path | None, seed: int, *, score_range: tuple[float, float], has_adapter: bool
) -> tuple[AigcVqa, bool]:
    """The network of a weights file of ours, or else a preset's with seeded weights, and whether it was trained.

    Args:
        score_range: of the opinions.
        has_adapter: False takes the adapter out.

    Raises:
        ValueError: the file cannot be read, or does not hold such a network.
    """
    if weights is not None:
        start, is_trained = load_weights(weights)
    else:
        start, is_trained = _untrained(PRESETS[preset], seed), False
    config = dataclasses.replace(start.config, score_range=score_range)
    state = start.state_dict()
    if not has_adapter:
        config = dataclasses.replace(config, adapter=None)
        state = {name: tensor for name, tensor in state.items() if not name.startswith("adapter.")}
    return network_from_state(AigcVqa, config, state, weights or Path(preset)), is_trained


def _untrained(config: AigcVqaConfig, seed: int) -> AigcVqa:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AigcVqa(config)
