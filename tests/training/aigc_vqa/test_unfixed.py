"""The unfixed ratio: how many blocks of which encoder learn, what is fixed with them, and that it rests."""

import dataclasses

import pytest
import torch
from prompted_network import SMALL
from torch import nn

from diffvqa_rt.metrics.aigc_vqa.presets import PAPER
from diffvqa_rt.models.aigc_vqa.network import AigcVqa, random_network
from diffvqa_rt.models.transformer import DropPath
from diffvqa_rt.training.aigc_vqa.objective import StageObjective
from diffvqa_rt.training.aigc_vqa.stages import STAGES
from diffvqa_rt.training.aigc_vqa.unfixed import choose_what_learns, fixed_count


def paper():
    """Without storage."""
    with torch.device("meta"):
        return AigcVqa(PAPER)


def learning(network, *prefixes):
    """The names of the parameters that learn, those with one of the prefixes."""
    return {n for n, p in network.named_parameters() if p.requires_grad and n.startswith(prefixes or ("",))}


@pytest.mark.parametrize(
    ("percent", "vision", "text"), [(80, 4, 2), (70, 7, 3), (60, 9, 4), (50, 12, 6), (40, 14, 7), (30, 16, 8)]
)
def test_the_paper_networks_encoders_learn_from_these_blocks_on(percent, vision, text):
    """Table 4, in whole percent."""
    assert (fixed_count(24, percent), fixed_count(12, percent)) == (vision, text)
    network = paper()
    choose_what_learns(network, dataclasses.replace(STAGES[2], unfixed_percent=percent))
    for path, first in (("vision.blocks", vision), ("text_encoder.encoder.layer", text)):
        count = len(network.get_submodule(path))
        numbers = {int(name.removeprefix(f"{path}.").split(".")[0]) for name in learning(network, f"{path}.")}
        assert numbers == set(range(first, count))


def millions(network, *prefixes):
    return sum(p.numel() for n, p in network.named_parameters() if p.requires_grad and n.startswith(prefixes)) / 1e6


ALIGNMENT = ("vision.", "adapter.", "text_encoder.", "reward.")


def test_stage_two_of_the_paper_learns_three_hundred_million_parameters():
    network = paper()
    assert millions(network, *ALIGNMENT) == pytest.approx(447.0, abs=0.05)
    choose_what_learns(network, STAGES[2])
    assert millions(network, *ALIGNMENT) == millions(network, "") == pytest.approx(304.5, abs=0.05)


def test_stage_three_of_the_paper_begins_in_the_midst_of_all_four_encoders():
    network = paper()
    choose_what_learns(network, STAGES[3])
    assert millions(network, *ALIGNMENT) == pytest.approx(141.9, abs=0.05)
    swin = learning(network, "technical.backbone.layers")
    assert {name.removeprefix("technical.backbone.layers.")[:10] for name in swin} == {
        "2.blocks.4", "2.blocks.5", "2.downsamp", "3.blocks.0", "3.blocks.1",
    }  # fmt: skip
    convnext = learning(network, "aesthetic.backbone.stages", "aesthetic.backbone.downsample")
    assert {".".join(name.split(".")[2:5]) for name in convnext} == {
        "stages.2.6", "stages.2.7", "stages.2.8", "stages.3.0", "stages.3.1", "stages.3.2",
        "downsample_layers.3.0", "downsample_layers.3.1",
    }  # fmt: skip


def test_what_stands_before_fixed_blocks_is_fixed_too_and_norms_adapter_and_heads_never_are():
    network = random_network(SMALL)
    choose_what_learns(network, dataclasses.replace(STAGES[3], unfixed_percent=0))
    parts = {".".join(name.split(".")[:3]) for name in learning(network)}
    assert parts == {
        "technical.backbone.norm", "technical.head.fc_hid", "technical.head.fc_last",
        "aesthetic.backbone.norm", "aesthetic.head.fc_hid", "aesthetic.head.fc_last",
        "vision.norm.weight", "vision.norm.bias",
        "adapter.down.weight", "adapter.down.bias", "adapter.conv.weight", "adapter.conv.bias",
        "adapter.up.weight", "adapter.up.bias",
        *(f"reward.layers.{layer}" for layer in (0, 2, 3)),
    }  # fmt: skip


def test_stage_one_learns_all_of_the_visual_branches():
    network = random_network(SMALL)
    choose_what_learns(network, STAGES[1])
    assert learning(network) == {n for n, _ in network.named_parameters() if n.startswith(("technical.", "aesthetic."))}


def test_fixed_blocks_run_without_dropout_and_stochastic_depth():
    """Though the loop puts the objective into training mode before each step."""
    network = random_network(SMALL)
    objective = StageObjective(network, dataclasses.replace(STAGES[3], unfixed_percent=40))
    objective.train()
    for blocks in network.encoder_blocks().values():
        fixed = fixed_count(len(blocks), 40)
        assert 0 < fixed < len(blocks)
        for index, (before, block) in enumerate(blocks):
            modules = [m for part in (*before, block) if isinstance(part, nn.Module) for m in part.modules()]
            random = [m for m in modules if isinstance(m, nn.Dropout | DropPath)]
            assert all(m.training == (index >= fixed) for m in random)
    assert network.technical.head.dropout.training
    assert not objective.eval().training
