"""The two branches, put together by hand in float64 from their weights (§III-C, §III-D)."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.config import PICTURES
from diffvqa_rt.models.diffv2iqa.difference import to_patches
from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA

Weights = dict[str, Tensor]


@pytest.fixture
def exact(network) -> DiffV2IQA:
    return copy.deepcopy(network).double()


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Along the last axis; of a 1×1 convolution too."""
    return x @ weights[f"{name}.weight"].flatten(1).T + weights[f"{name}.bias"]


def attention(weights: Weights, name: str, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (
        linear(maps, weights, f"{name}.to_{letter}") for letter, maps in zip("qkv", (query, key, value), strict=True)
    )
    return x + torch.einsum("cd,dp->cp", (torch.einsum("cp,dp->cd", q, k) / x.shape[1] ** 0.5).softmax(1), v)


def head(weights: Weights, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Σ w f / Σ w, and f, of one view's maps [C, P]."""
    f, w = (
        linear(linear(maps.T, weights, f"head.{name}.0").clamp(min=0), weights, f"head.{name}.3")[:, 0]
        for name in ("score", "weight")
    )
    w = 1 / (1 + torch.exp(-w))
    return (w * f).sum() / w.sum(), f


@torch.inference_mode()
def test_z_is_the_maps_of_each_picture_and_then_its_row_of_e(small, exact):
    """[f_x × 4, E_0, f_0 × 2, E_1, f_{t₁}, E_2, f_{t₂}, E_3], channels first; E is the same at every position."""
    maps = {name: torch.randn(len(blocks), 2, 64, 96).double().unbind(0) for name, blocks in small.vcg.blocks.items()}
    z = exact.vcg.fuse(maps)
    assert z.shape == (2, small.fused_channels, 64)
    row = 0
    for index, name in enumerate(PICTURES):
        for block in maps[name]:
            assert torch.equal(z[:, row : row + 96], block.transpose(1, 2))
            row += 96
        for value in exact.vcg.noise_embedding[index]:
            assert (z[:, row] == value).all()
            row += 1
    assert row == z.shape[1]


@torch.inference_mode()
def test_the_vcg_has_its_stages_in_the_papers_order(exact, pictures):
    vcg, weights = exact.vcg, exact.vcg.state_dict()
    maps = exact.encode(**{name: x.double() for name, x in pictures.items()}).vit
    z = vcg.fuse(maps)[1]
    for index in range(2):
        z = attention(weights, f"attentions1.{index}", z, z, z, z)
    reduced = linear(linear(z.T, weights, "reduce1.0"), weights, "reduce1.1").T
    u = vcg.swin1(reduced.reshape(1, 96, 8, 8)).reshape(96, 64)
    for index in range(2):
        u = attention(weights, f"attentions2.{index}", u, u, u, u)
    score, f = head(weights, vcg.swin2(linear(u.T, weights, "reduce2").T.reshape(1, 48, 8, 8)).reshape(48, 64))
    actual = vcg(maps)
    torch.testing.assert_close(actual.score[1].double(), score, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actual.scores[1].double(), f, rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_the_vda_attends_to_differences_from_x(exact, pictures):
    """Eq. (10): X̂ = E(x) + softmax(q kᵀ / √P) v of |E(x) − E(y_0)|, |E(x) − E(y_{t₁})|, |E(x) − E(y_{t₂})|."""
    weights = exact.vda.state_dict()
    pictures = {name: x.double() for name, x in pictures.items()}
    encoded = {}
    for name, picture in pictures.items():
        patches = to_patches(exact.resnet(picture[2:]))
        encoded[name] = F.conv2d(patches, weights["reduce.weight"], weights["reduce.bias"])[0].flatten(1)
    x = encoded["x"]
    differences = [(x - encoded[name]).abs() for name in ("y_0", "y_t1", "y_t2")]
    score, f = head(weights, attention(weights, "attention", x, *differences))
    actual = exact.vda(exact.encode(**pictures).resnet)
    torch.testing.assert_close(actual.score[2].double(), score, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actual.scores[2].double(), f, rtol=1e-6, atol=1e-6)
