import pytest
import torch


@pytest.fixture
def uninitialised_memory_is_nan():
    """torch.empty returns NaN, so a value that a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
