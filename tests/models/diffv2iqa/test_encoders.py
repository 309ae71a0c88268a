"""The ViT and the ResNet against plain restatements in float64: what they see, and what is read from them."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.models.diffv2iqa.difference import to_patches
from diffvqa_rt.models.diffv2iqa.network import random_network
from diffvqa_rt.models.diffv2iqa.vit import ViT

HEADS, EPS = TINY.vit.heads, TINY.vit.eps


def vit_by_hand(weights: dict[str, Tensor], picture: Tensor, blocks: int) -> list[Tensor]:
    """The patches [P, C] of one picture [3, S, S], already at the ViT's scale, after each block."""

    def norm(tokens: Tensor, name: str) -> Tensor:
        deviations = tokens - tokens.mean(1, keepdim=True)
        scaled = deviations / (deviations.square().mean(1, keepdim=True) + EPS).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(tokens: Tensor, name: str) -> Tensor:
        return tokens @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    patches = picture.unfold(1, 8, 8).unfold(2, 8, 8)
    embedded = torch.einsum("cyxij,ocij->yxo", patches, weights["patch_embed.proj.weight"]).flatten(0, 1)
    tokens = torch.cat([weights["cls_token"][0], embedded + weights["patch_embed.proj.bias"]]) + weights["pos_embed"][0]
    after = []
    for block in range(blocks):
        name = f"blocks.{block}"
        q, k, v = linear(norm(tokens, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, dim=1)
        width = q.shape[1] // HEADS
        heads = [
            (q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(1) @ v[:, part]
            for part in (slice(head * width, (head + 1) * width) for head in range(HEADS))
        ]
        tokens = tokens + linear(torch.cat(heads, dim=1), f"{name}.attn.proj")
        hidden = linear(norm(tokens, f"{name}.norm2"), f"{name}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + linear(hidden, f"{name}.mlp.fc2")
        after.append(tokens[1:])
    return after


BLOCKS = {
    "paper": {"x": (2, 3, 4, 5), "y_0": (2, 3), "y_t1": (4,), "y_t2": (5,)},
    # Table X has such rows.
    "apart": {"x": (1, 3, 5), "y_0": (1, 2), "y_t1": (4,), "y_t2": (0,)},
    "unsorted": {"x": (3, 0), "y_0": (5, 1), "y_t1": (2,), "y_t2": (4,)},
}


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
@torch.inference_mode()
def test_maps_are_those_of_each_picture_alone_through_every_block(network, blocks, pictures):
    vit = copy.deepcopy(network.vit).double()
    read = vit({name: x[:2].double() for name, x in pictures.items()}, blocks)
    for name, expected_blocks in blocks.items():
        assert len(read[name]) == len(expected_blocks)
        for view in range(2):
            after = vit_by_hand(vit.state_dict(), pictures[name][view].double(), len(vit.blocks))
            for actual, block in zip(read[name], expected_blocks, strict=True):
                torch.testing.assert_close(actual[view], after[block], rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_a_picture_leaves_after_the_last_block_that_it_is_read_from(network, pictures):
    rows = []
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0] // 3))
        for block in network.vit.blocks
    ]
    network.vit(pictures, BLOCKS["paper"])
    for hook in hooks:
        hook.remove()
    # The paper's, four blocks later: 37 of 40.
    assert rows == [4, 4, 4, 4, 3, 2]


def test_blocks_that_nothing_is_read_from_are_not_there(small):
    vcg = dataclasses.replace(small.vcg, blocks_x=(0, 1), blocks_y_0=(2,), blocks_y_t1=(1,), blocks_y_t2=(0,))
    assert len(random_network(dataclasses.replace(small, vcg=vcg)).vit.blocks) == 3


@torch.inference_mode()
def test_the_vit_sees_pixels_at_its_own_scale(small):
    """D34: DINO's weights were trained on ImageNet's mean and deviation, timm's on [−1, 1]."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    dino = ViT(dataclasses.replace(small.vit, mean=mean, std=std), small.grid, 1).double()
    timm = ViT(small.vit, small.grid, 1).double()
    timm.load_state_dict(dino.state_dict())
    pixels = torch.rand(2, 3, 64, 64, dtype=torch.float64)  # from 0 to 1
    pictures = 2 * pixels - 1
    assert torch.equal(timm.embed(pictures), timm.embed(timm.pixels(pictures)))
    as_dino = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(dino.embed(pictures), timm.embed(as_dino), rtol=1e-5, atol=1e-5)


def resnet_by_hand(weights: dict[str, Tensor], pictures: Tensor, stages: int) -> list[Tensor]:
    """He et al.'s bottlenecks from the names in the weights, with the stride in the 3×3 convolution."""

    def conv_norm(x: Tensor, conv: str, norm: str, *, stride: int = 1) -> Tensor:
        kernel = weights[f"{conv}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, weight, bias = (
            weights[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = conv_norm(pictures, "conv1", "bn1", stride=2).clamp(min=0)
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    maps = []
    for stage in range(1, stages + 1):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            hidden = conv_norm(x, f"{name}.conv1", f"{name}.bn1").clamp(min=0)
            hidden = conv_norm(hidden, f"{name}.conv2", f"{name}.bn2", stride=stride).clamp(min=0)
            hidden = conv_norm(hidden, f"{name}.conv3", f"{name}.bn3")
            if block == 0:
                x = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
            x = (hidden + x).clamp(min=0)
            block += 1
        maps.append(x)
    return maps


@torch.inference_mode()
def test_the_resnet_is_torchvisions_and_sees_imagenets_scale(small):
    """D25. Two blocks in a stage have one without a projection among them."""
    vda = dataclasses.replace(small.vda, resnet_blocks=(2, 1, 2, 1), resnet_width=4)
    resnet = random_network(dataclasses.replace(small, vda=vda)).resnet.double()
    pixels = torch.rand(2, 3, 64, 64, dtype=torch.float64)  # from 0 to 1
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)[..., None, None]
    expected = resnet_by_hand(resnet.state_dict(), (pixels - mean) / std, 4)
    for actual, wanted in zip(resnet(2 * pixels - 1), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


def test_four_maps_come_to_the_grid_of_patches_without_parameters():
    """D23: 2×2 means, as they are, and each value for 2×2 and for 4×4 patches."""
    half, same, double, quadruple = (torch.randn(1, 2, side, side) for side in (16, 8, 4, 2))
    patches = to_patches([half, same, double, quadruple])
    assert patches.shape == (1, 8, 8, 8)
    for row in range(8):
        for column in range(8):
            expected = [
                half[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2)),
                same[0, :, row, column],
                double[0, :, row // 2, column // 2],
                quadruple[0, :, row // 4, column // 4],
            ]
            torch.testing.assert_close(patches[0, :, row, column], torch.cat(expected))
