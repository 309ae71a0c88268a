"""The engine `quality_branches`: its folds change rounding alone, and the network not at all (SPEC §12)."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from diffvqa_rt.metrics.diffv2iqa.engines import engine_specs
from diffvqa_rt.models.diffv2iqa.network import random_network
from diffvqa_rt.models.diffv2iqa.quality import QualityBranches
from diffvqa_rt.models.registry import models_of


@pytest.fixture
def stage(network) -> nn.Module:
    return models_of("diffv2iqa").stages(network)["quality_branches"]


@torch.inference_mode()
def test_the_outputs_are_the_specs(small, stage, pictures):
    spec = engine_specs(small)["quality_branches"]
    outputs = stage(*(pictures[tensor.name] for tensor in spec.inputs))
    assert [tuple(values.shape) for values in outputs] == [(3, *tensor.shape[1:]) for tensor in spec.outputs]


@torch.inference_mode()
def test_folds_change_rounding_alone(small, network, pictures):
    """In float64, in which the network's rounding is not what is compared."""
    exact = copy.deepcopy(network).double()
    pictures = {name: x.double() for name, x in pictures.items()}
    for actual, expected in zip(QualityBranches(exact)(**pictures), exact(**pictures), strict=True):
        # The scores themselves are float32.
        error = (actual - expected).norm() / expected.norm()
        assert error < 1e-7, f"relative error {error:.1e}"


@torch.inference_mode()
def test_folds_are_exact_in_float32(network, stage, pictures):
    for actual, expected in zip(stage(**pictures), network(**pictures), strict=True):
        error = (actual - expected).norm() / expected.norm()
        assert error < 1e-5, f"relative error {error:.1e}"


def test_what_is_folded_is_gone(stage):
    kinds = [type(module).__name__ for module in stage.modules()]
    assert "BatchNorm2d" not in kinds and "WindowBias" not in kinds and "UNet" not in kinds
    assert isinstance(stage.network.vcg.reduce1, nn.Conv2d)
    assert kinds.count("Constant") == 8  # a Swin block has one


def test_the_network_stays_as_it_is(small, pictures):
    network = random_network(small).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    structure, modes = str(network), {name: module.training for name, module in network.named_modules()}
    QualityBranches(network)
    assert str(network) == structure
    assert {name: module.training for name, module in network.named_modules()} == modes
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    # Training goes on.
    network(**pictures).branch_scores.sum().backward()
    assert network.vcg.reduce1[0].weight.grad is not None


def test_weights_that_are_not_folded_are_shared(network, stage):
    """At full size a copy of the ViT would be 286 MB."""
    assert stage.network.vit.blocks[0].mlp.fc1.weight is network.vit.blocks[0].mlp.fc1.weight
    own = {id(parameter) for parameter in network.parameters()}
    copied = sum(p.numel() for p in stage.parameters() if id(p) not in own)
    assert copied == sum(
        conv.weight.numel() + conv.bias.numel()
        for part in (stage.network.resnet, stage.network.vcg.reduce1)
        for conv in part.modules()
        if isinstance(conv, nn.Conv2d)
    )


@pytest.mark.parametrize("change", [{"branches": "vcg"}, {"branches": "vda"}, {"pictures": ("x", "y_0")}], ids=str)
@torch.inference_mode()
def test_ablated_networks_fold_too(small, pictures, change):
    network = random_network(dataclasses.replace(small, **change))
    for actual, expected in zip(QualityBranches(network)(**pictures), network(**pictures), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
