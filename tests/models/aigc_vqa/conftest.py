"""A small network, and what it takes."""

from typing import NamedTuple

import pytest
import torch
from prompted_network import SMALL

from diffvqa_rt.models.aigc_vqa.network import AigcVqa, random_network


class Given(NamedTuple):
    """The arguments of the network's `forward`, for three videos."""

    fragments: torch.Tensor
    resized: torch.Tensor
    token_ids: torch.Tensor
    token_mask: torch.Tensor


@pytest.fixture(scope="session")
def small():
    return SMALL


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
