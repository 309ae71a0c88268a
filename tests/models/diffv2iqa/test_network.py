"""The whole network: its sizes, what it computes from the four pictures, what learns, and the paper's ablations."""

import dataclasses

import pytest
import torch
from torch import nn

from diffvqa_rt.metrics.diffv2iqa.config import PICTURES
from diffvqa_rt.metrics.diffv2iqa.presets import PAPER, TINY
from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA, random_network
from diffvqa_rt.models.weights import weights_sha256


def count(module: nn.Module, *, only_learning: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not only_learning)


@pytest.mark.parametrize(
    ("config", "vit", "vcg", "resnet", "vda", "whole", "learning"),
    [
        (PAPER, 71_630_592, 57_872_482, 23_508_032, 2_961_714, 253_780_311, 60_834_196),
        (TINY, 703_584, 954_802, 506_384, 132_594, 3_348_935, 1_087_396),
    ],
    ids=["paper", "tiny"],
)
def test_parameters_are_as_many_as_the_specification_says(config, vit, vcg, resnet, vda, whole, learning):
    with torch.device("meta"):
        network = DiffV2IQA(config)
    parts = (network.vit, network.vcg, network.resnet, network.vda)
    assert [count(part) for part in parts] == [vit, vcg, resnet, vda]
    assert count(network) == whole
    assert count(network, only_learning=True) == learning


def test_parameters_of_the_papers_parts_are_as_many_as_the_specification_says():
    with torch.device("meta"):
        network = DiffV2IQA(PAPER)
    vcg, vda = network.vcg, network.vda
    assert [count(attentions) for attentions in (vcg.attentions1, vcg.attentions2)] == [3_692_640] * 2
    assert [count(conv) for conv in (*vcg.reduce1, vcg.reduce2)] == [15_927_552, 1_770_240, 295_296]
    assert [count(swin) for swin in (vcg.swin1, vcg.swin2)] == [24_805_648, 7_391_248]
    assert (count(vcg.head), vcg.noise_embedding.numel()) == (296_450, 768)
    assert [count(part) for part in (vda.reduce, vda.attention, vda.head)] == [983_296, 1_846_320, 132_098]
    # torchvision's own names but for the classifier's two.
    assert len(network.resnet.state_dict()) == 318


@torch.inference_mode()
def test_shapes_are_the_engines(network, small, pictures):
    prediction = network(**pictures)
    assert [tuple(values.shape) for values in prediction] == [(3,), (3, 2), (3, 2, 8, 8), (3, 2, 8, 8)]
    assert all(values.dtype == torch.float32 and values.isfinite().all() for values in prediction)


@torch.inference_mode()
def test_scores_are_the_weighted_means_of_their_patches(network, pictures):
    view_scores, branch_scores, patch_scores, patch_weights = network(**pictures)
    torch.testing.assert_close(patch_weights.sum((2, 3)), torch.ones(3, 2))
    torch.testing.assert_close((patch_weights * patch_scores).sum((2, 3)), branch_scores)
    torch.testing.assert_close(view_scores, 100 * branch_scores.sum(1))
    # Means of the patches alone would be something else.
    assert not torch.allclose(patch_scores.mean((2, 3)), branch_scores, rtol=1e-4)


@torch.inference_mode()
def test_an_untrained_score_is_near_the_middle_of_the_range(small, pictures):
    """D22. A ReLU that dies would score 0 for everything."""
    for branches in ("both", "vcg", "vda"):
        for seed in range(2):
            config = dataclasses.replace(small, branches=branches, score_range=(1.0, 5.0))
            scores = random_network(config, seed)(**pictures).view_scores
            assert (scores - 3).abs().max() < 1, f"{branches}, seed {seed}: {scores}"


@torch.inference_mode()
def test_every_picture_moves_both_branches_by_more_than_an_engine_may_be_off(network, pictures):
    expected = network(**pictures).patch_scores
    for name in PICTURES:
        moved = network(**{**pictures, name: pictures[name].flip(-1)}).patch_scores
        for branch, index in (("vcg", 0), ("vda", 1)):
            change = (moved - expected)[:, index].norm() / expected[:, index].norm()
            assert change > 3e-4, f"{name} moves {branch} by {change:.1e}"


@torch.inference_mode()
def test_restored_pictures_are_clamped_and_the_distorted_one_is_as_it_is(network, pictures):
    """D8: the sampler's y may pass ±1 by a little, and much while noise is left."""
    wild = {name: 1.5 * picture for name, picture in pictures.items()}
    tame = {name: wild[name].clamp(-1, 1) for name in PICTURES}
    expected = network(**tame)
    actual = network(**{**wild, "x": tame["x"]})
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


@torch.inference_mode()
def test_a_view_has_its_score_whatever_is_beside_it(network, pictures):
    together = network(**pictures)
    others = network(**{name: torch.cat([x[2:], x[:1].flip(-1), x[1:2]]) for name, x in pictures.items()})
    for here, there in zip(together, others, strict=True):
        assert torch.equal(here[2], there[0])
        assert torch.equal(here[1], there[2])
        assert not torch.equal(here[0], there[1])
    # A single small picture goes through another convolution of torch's, whose sums have another order.
    alone = network(**{name: x[1:2] for name, x in pictures.items()})
    for here, there in zip(together, alone, strict=True):
        torch.testing.assert_close(there[0], here[1], rtol=1e-5, atol=1e-6)


def test_random_weights_are_the_seeds(small, network):
    assert weights_sha256(random_network(small, seed=5)) == weights_sha256(network)
    assert weights_sha256(random_network(small, seed=6)) != weights_sha256(network)


def test_random_batch_norms_would_show_a_wrong_fold(network):
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 20
    for norm in norms:
        for values, trivial in ((norm.running_mean, 0), (norm.running_var, 1), (norm.weight, 1), (norm.bias, 0)):
            assert ((values - trivial).abs() > 1e-3).float().mean() > 0.9


def test_only_the_branches_learn_and_the_encoders_stay_in_evaluation_mode(small, pictures):
    network = random_network(small).train()
    frozen = (network.restorer, network.vit, network.resnet)
    assert not any(module.training for part in frozen for module in part.modules())
    assert network.vcg.training and network.vda.head.training
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network(**pictures).branch_scores.sum().backward()
    assert all(parameter.grad is None for part in frozen for parameter in part.parameters())
    for part in (network.vcg, network.vda):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            # A bias of the key moves all the scores of a query alike, but for what rounding leaves.
            assert parameter.grad.any(), name
    # No statistics moved.
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_dropout_and_drop_path_are_the_trainings_alone(small, pictures):
    network = random_network(small).train()
    first, second = (network(**pictures).branch_scores for _ in range(2))
    assert not torch.equal(first, second)
    network.eval()
    first, second = (network(**pictures).branch_scores for _ in range(2))
    assert torch.equal(first, second)


def test_drop_path_keeps_the_mean(small):
    rates = [block.drop_path.rate for layer in random_network(small).vcg.swin1.layers for block in layer.blocks]
    assert rates == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    drop_path = random_network(small).vcg.swin1.layers[1].blocks[1].drop_path.train()
    torch.manual_seed(0)
    kept = drop_path(torch.ones(4000, 2, 3))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.9])
    # A view is there as a whole or not at all.
    assert (kept.flatten(1) == kept[:, :1, 0]).all()
    assert kept.mean() == pytest.approx(1, abs=0.02)


@torch.inference_mode()
def test_maps_of_the_encoders_can_be_kept(network, pictures):
    """While the branches learn nothing else has to run again."""
    maps = network.encode(**pictures)
    assert {name: len(blocks) for name, blocks in maps.vit.items()} == {"x": 4, "y_0": 2, "y_t1": 1, "y_t2": 1}
    assert [tuple(values.shape) for values in maps.resnet] == [
        (12, 64, 16, 16),
        (12, 128, 8, 8),
        (12, 256, 4, 4),
        (12, 512, 2, 2),
    ]
    for kept, live in zip(network.predict(maps), network(**pictures), strict=True):
        assert torch.equal(kept, live)


@pytest.mark.parametrize("branch", ["vcg", "vda"])
@torch.inference_mode()
def test_one_branch_can_stand_alone(small, network, pictures, branch):
    """Table VIII. The other's encoder does not run, and is not there."""
    config = dataclasses.replace(small, branches=branch)
    lone = DiffV2IQA(config).eval()
    weights = {name: tensor for name, tensor in network.state_dict().items() if name in lone.state_dict()}
    lone.load_state_dict(weights)
    other = {"vcg": (lone.resnet, lone.vda), "vda": (lone.vit, lone.vcg)}[branch]
    assert other == (None, None)
    index = network.config.branch_names.index(branch)
    expected, actual = network(**pictures), lone(**pictures)
    torch.testing.assert_close(actual.branch_scores, expected.branch_scores[:, index : index + 1])
    torch.testing.assert_close(actual.patch_weights, expected.patch_weights[:, index : index + 1])
    torch.testing.assert_close(actual.view_scores, 100 * actual.branch_scores[:, 0])


@torch.inference_mode()
def test_x_stands_in_for_a_picture_that_is_left_out(small, network, pictures):
    """Table XI."""
    config = dataclasses.replace(small, pictures=("x", "y_t1"))
    without = DiffV2IQA(config).eval()
    without.load_state_dict(network.state_dict())
    expected = network(**{**pictures, "y_0": pictures["x"], "y_t2": pictures["x"]})
    for actual, wanted in zip(without(**pictures), expected, strict=True):
        assert torch.equal(actual, wanted)


@torch.inference_mode()
def test_a_network_without_noise_embedding_has_zeros_for_it(small, network, pictures):
    """Table VII. The other weights keep their shapes."""
    vcg = dataclasses.replace(small.vcg, has_noise_embedding=False)
    without = DiffV2IQA(dataclasses.replace(small, vcg=vcg)).eval()
    weights = dict(network.state_dict())
    embedding = weights.pop("vcg.noise_embedding")
    without.load_state_dict(weights)
    zeroed = DiffV2IQA(small).eval()
    zeroed.load_state_dict({**weights, "vcg.noise_embedding": torch.zeros_like(embedding)})
    assert count(network) - count(without) == embedding.numel()
    assert torch.equal(without(**pictures).patch_scores, zeroed(**pictures).patch_scores)
    assert not torch.equal(without(**pictures).patch_scores, network(**pictures).patch_scores)


@torch.inference_mode()
def test_the_roles_in_the_residual_attention_are_the_configs(small, network, pictures):
    """Table XII: (Q, K, V) = (y_t2, y_t1, y_0) is the paper's order with two pictures exchanged."""
    vda = dataclasses.replace(small.vda, query="y_t2", value="y_0")
    turned = DiffV2IQA(dataclasses.replace(small, vda=vda)).eval()
    turned.load_state_dict(network.state_dict())
    exchanged = {**pictures, "y_0": pictures["y_t2"], "y_t2": pictures["y_0"]}
    torch.testing.assert_close(turned(**pictures).patch_scores[:, 1], network(**exchanged).patch_scores[:, 1])
    assert not torch.allclose(turned(**pictures).patch_scores[:, 1], network(**pictures).patch_scores[:, 1])
