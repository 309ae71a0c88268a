"""The aesthetic backbone against a ConvNeXt of pictures, from whose weights it can start (SPEC §4)."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.metrics.aigc_vqa.presets import PAPER
from diffvqa_rt.models.aigc_vqa.checkpoints import load_convnext
from diffvqa_rt.models.aigc_vqa.network import AigcVqa, random_network

EPS = 1e-6


def picture_weights(network: AigcVqa) -> dict[str, Tensor]:
    """A ConvNeXt of pictures with random weights in its authors' layout, as deep and wide as the network's."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.3 * torch.randn(x[:, :, 0].shape if x.ndim == 5 else x.shape, generator=generator)
        for name, x in network.aesthetic.backbone.state_dict().items()
    }
    return weights | {"head.weight": torch.ones(1000, 4), "head.bias": torch.ones(1000)}


def convnext_by_hand(weights: dict[str, Tensor], picture: Tensor, depths: tuple[int, ...]) -> Tensor:
    """The normalised positions [h, w, C] of a picture [3, S, S]."""

    def of(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def norm(maps: Tensor, name: str) -> Tensor:
        return F.layer_norm(maps.movedim(0, -1), maps.shape[:1], *of(name), EPS)

    def conv(maps: Tensor, name: str, **options) -> Tensor:
        return F.conv2d(maps[None], *of(name), **options)[0]

    maps = norm(conv(picture, "downsample_layers.0.0", stride=4), "downsample_layers.0.1").movedim(-1, 0)
    for stage, depth in enumerate(depths):
        if stage:
            maps = norm(maps, f"downsample_layers.{stage}.0").movedim(-1, 0)
            maps = conv(maps, f"downsample_layers.{stage}.1", stride=2)
        for index in range(depth):
            block = f"stages.{stage}.{index}"
            hidden = norm(conv(maps, f"{block}.dwconv", padding=3, groups=len(maps)), f"{block}.norm")
            hidden = F.linear(F.gelu(F.linear(hidden, *of(f"{block}.pwconv1"))), *of(f"{block}.pwconv2"))
            maps = maps + (weights[f"{block}.gamma"] * hidden).movedim(-1, 0)
    return norm(maps, "norm")


@torch.inference_mode()
def test_an_inflated_network_sees_a_still_as_the_network_of_pictures_sees_its_picture(tmp_path, small):
    """Where no end of time is near: a kernel of three frames sees nothing beyond them."""
    network = random_network(small)
    weights = picture_weights(network)
    torch.save({"model": weights}, tmp_path / "convnext.pth")
    load_convnext(network, tmp_path / "convnext.pth")
    picture = torch.randn(3, 64, 64)
    positions = network.aesthetic.backbone(picture.expand(1, 18, 3, 64, 64))
    expected = convnext_by_hand(weights, picture, small.convnext.depths)
    assert positions.shape == (1, 9, 2, 2, 32)
    # Two blocks see their neighbours in time.
    torch.testing.assert_close(positions[0, 2:-2], expected.expand(5, 2, 2, 32), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(positions[0, 0], expected, rtol=1e-2, atol=1e-2)


def test_every_second_of_three_blocks_sees_three_frames():
    with torch.device("meta"):
        backbone = AigcVqa(PAPER).aesthetic.backbone
    kernels = [[block.dwconv.kernel_size[0] for block in stage] for stage in backbone.stages]
    assert kernels == [[1, 3, 1], [1, 3, 1], [1, 3, 1] * 3, [1, 3, 1]]


def test_training_starts_with_gammas_that_hide_the_blocks(small):
    for stage in AigcVqa(small).aesthetic.backbone.stages:
        for block in stage:
            assert block.gamma.tolist() == pytest.approx([1e-6] * len(block.gamma))
