"""3-D convolutions as 2-D ones, against torch's own (SPEC §11)."""

import pytest
import torch
from torch import nn

from diffvqa_rt.models.aigc_vqa.convolutions import DepthwiseConv3d, PatchConv3d, PointwiseConv3d


def assert_is_conv3d(conv: nn.Conv3d, frames: torch.Tensor) -> None:
    """The frames have the channels last."""
    expected = nn.Conv3d.forward(conv, frames.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(conv(frames), expected, rtol=1e-12, atol=1e-12)


def frames_of(count: int, side: int, channels: int) -> torch.Tensor:
    return torch.randn(2, count, side, side, channels, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kernel", [(2, 4, 4), (1, 2, 2), (3, 2, 4)])
@torch.inference_mode()
def test_a_convolution_whose_kernel_is_its_stride(kernel):
    assert_is_conv3d(PatchConv3d(3, 5, kernel).double(), frames_of(6, 8, 3))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("kernel", [(1, 7, 7), (3, 7, 7), (3, 1, 1), (3, 3, 3), (5, 1, 3)])
@torch.inference_mode()
def test_a_depthwise_convolution(kernel, count):
    assert_is_conv3d(DepthwiseConv3d(4, kernel).double(), frames_of(count, 6, 4))


@torch.inference_mode()
def test_a_convolution_of_one_pixel():
    assert_is_conv3d(PointwiseConv3d(4, 3).double(), frames_of(2, 3, 4))


def test_weights_keep_the_shapes_of_checkpoints():
    convs = (PatchConv3d(3, 96, (2, 4, 4)), DepthwiseConv3d(96, (3, 7, 7)), PointwiseConv3d(768, 64))
    shapes = [tuple(conv.weight.shape) for conv in convs]
    assert shapes == [(96, 3, 2, 4, 4), (96, 1, 3, 7, 7), (64, 768, 1, 1, 1)]
