"""A small network, and pictures for it."""

import dataclasses

import pytest
import torch

from diffvqa_rt.metrics.diffv2iqa.config import PICTURES
from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA, random_network


@pytest.fixture(scope="session")
def small():
    """`tiny` for views of 64×64, a grid of 8×8 patches: four windows of a Swin."""
    return dataclasses.replace(TINY, view_size=64)


@pytest.fixture(scope="session")
def network(small) -> DiffV2IQA:
    """Random weights and BatchNorm statistics. Tests leave it as it is."""
    return random_network(small, seed=5)


@pytest.fixture
def pictures(small) -> dict[str, torch.Tensor]:
    """Four pictures of each of three views, smooth, with a little noise."""
    generator = torch.Generator().manual_seed(8)

    def picture() -> torch.Tensor:
        coarse = torch.rand(3, 3, 6, 6, generator=generator) * 2 - 1
        smooth = torch.nn.functional.interpolate(coarse, size=small.view_size, mode="bilinear")
        return (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(-1, 1)

    return {name: picture() for name in PICTURES}
