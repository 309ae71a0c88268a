"""A small network, and what it takes."""

import dataclasses
from typing import NamedTuple

import pytest
import torch

from diffvqa_rt.metrics.aigc_vqa.config import AdapterConfig, ConvNextConfig, SwinConfig, VisionConfig
from diffvqa_rt.metrics.aigc_vqa.presets import TINY
from diffvqa_rt.models.aigc_vqa.network import AigcVqa, random_network


class Given(NamedTuple):
    """The arguments of the network's `forward`, for three videos."""

    fragments: torch.Tensor
    resized: torch.Tensor
    token_ids: torch.Tensor
    token_mask: torch.Tensor


@pytest.fixture(scope="session")
def small():
    """Views of 64×64, cut into 8×8 pieces; four frames. Windows are shifted in the first two stages."""
    return dataclasses.replace(
        TINY,
        frames=4,
        view_size=64,
        grid=8,
        swin=SwinConfig(width=16, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=(2, 4, 4)),
        convnext=ConvNextConfig(widths=(8, 16, 24, 32), depths=(3, 1, 2, 1)),
        vision=VisionConfig(width=32, depth=2, heads=2),
        adapter=AdapterConfig(bottleneck=12),
        text=dataclasses.replace(TINY.text, width=48, layers=2, heads=3, prompt_tokens=9),
    )


@pytest.fixture(scope="session")
def network(small) -> AigcVqa:
    """Random weights. Tests leave it as it is."""
    return random_network(small, seed=5)


@pytest.fixture
def given(small) -> Given:
    """Noise, and prompts of 3, 9 and 6 tokens."""
    generator = torch.Generator().manual_seed(8)
    shape = (3, small.frames, 3, small.view_size, small.view_size)
    fragments, resized = (torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))
    tokens = small.text.prompt_tokens
    token_ids = torch.randint(5, small.text.vocabulary, (3, tokens), generator=generator)
    token_mask = (torch.arange(tokens) < torch.tensor([[3], [9], [6]])).long()
    return Given(fragments, resized, token_ids * token_mask, token_mask)
