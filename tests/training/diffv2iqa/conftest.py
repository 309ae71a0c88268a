"""A small network, pictures, and their restored crops."""

import pytest
import torch
from accelerate import Accelerator
from restoring_network import SMALLEST, save_stills

from diffvqa_rt.models.diffv2iqa.network import random_network
from diffvqa_rt.training.diffv2iqa.cache import RestoredCache, Restoring


@pytest.fixture(scope="session")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture(scope="session")
def network():
    """Not to be changed."""
    return random_network(SMALLEST)


@pytest.fixture(scope="session")
def stills(tmp_path_factory):
    return save_stills(tmp_path_factory.mktemp("stills"), 5, 64)


@pytest.fixture
def open_cache(tmp_path, accelerator):
    """Opens the test's cache for a network: the cache, and what makes its entries."""

    def open_for(network, gigabytes=1):
        restoring = Restoring(network, accelerator)
        return RestoredCache(tmp_path / "cache", restoring, network.config, max_bytes=gigabytes * 10**9), restoring

    torch.manual_seed(0)
    return open_for
