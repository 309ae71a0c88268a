"""Our own files, and the checkpoints that the paper starts from, by their names (SPEC §10)."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffvqa_rt.metrics.aigc_vqa.presets import PAPER, TINY
from diffvqa_rt.models.aigc_vqa.checkpoints import (
    load_blip,
    load_convnext,
    load_dover,
    load_image_reward,
    load_kinetics_swin,
    load_weights,
    read_description,
)
from diffvqa_rt.models.aigc_vqa.network import AigcVqa, random_network
from diffvqa_rt.models.aigc_vqa.swin import WindowAttention
from diffvqa_rt.models.weights import save_weights, weights_sha256

Weights = dict[str, Tensor]

_BLIPS_OWN = {
    "vision_model.embeddings.class_embedding": "vision.cls_token",
    "vision_model.embeddings.position_embedding": "vision.pos_embed",
    "vision_model.embeddings.patch_embedding.": "vision.patch_embed.proj.",
    "vision_model.post_layernorm.": "vision.norm.",
    "vision_model.encoder.layers.": "vision.blocks.",
    ".self_attn.qkv.": ".attn.qkv.",
    ".self_attn.projection.": ".attn.proj.",
    ".layer_norm1.": ".norm1.",
    ".layer_norm2.": ".norm2.",
}


def part(network: AigcVqa, prefix: str, name: str) -> Weights:
    """The tensors of a part of the network, under another name of the part."""
    return {f"{name}{key.removeprefix(prefix)}": x for key, x in network.state_dict().items() if key.startswith(prefix)}


def indices(network: AigcVqa, prefix: str) -> Weights:
    """The rows of the tables of each window attention, which published files have beside them."""
    backbone = network.technical.backbone
    return {
        f"{prefix}.{path}.relative_position_index": module.offsets
        for path, module in backbone.named_modules()
        if isinstance(module, WindowAttention)
    }


def dover_layout(network: AigcVqa) -> Weights:
    weights = indices(network, "technical_backbone")
    for branch in ("technical", "aesthetic"):
        weights |= part(network, f"{branch}.backbone.", f"{branch}_backbone.")
        weights |= part(network, f"{branch}.head.", f"{branch}_head.")
    return weights


def image_reward_layout(network: AigcVqa) -> Weights:
    return {
        **part(network, "vision.", "blip.visual_encoder."),
        **part(network, "text_encoder.", "blip.text_encoder."),
        **part(network, "reward.", "mlp."),
        "blip.text_encoder.embeddings.position_ids": torch.arange(64)[None],
        "blip.vision_proj.weight": torch.ones(2, 2),
        "blip.text_proj.bias": torch.ones(2),
    }


def blip_layout(network: AigcVqa) -> Weights:
    own = part(network, "vision.", "visual_encoder.") | part(network, "text_encoder.", "text_encoder.")
    of_training = {name.replace("encoder.", "encoder_m.", 1): x for name, x in own.items()}
    others = ("vision_proj.weight", "text_proj_m.bias", "itm_head.weight", "temp", "image_queue", "text_queue")
    others += (
        "queue_ptr",
        "text_decoder.bert.encoder.layer.0.output.dense.bias",
        "text_encoder.embeddings.position_ids",
    )
    return own | of_training | {name: torch.ones(1) for name in others}


def transformers_layout(network: AigcVqa) -> Weights:
    named = part(network, "vision.", "vision.")
    for theirs, ours in _BLIPS_OWN.items():
        named = {name.replace(ours, theirs): x for name, x in named.items()}
    others = ("vision_proj.weight", "text_proj.bias", "itm_head.weight", "text_encoder.embeddings.position_ids")
    return named | part(network, "text_encoder.", "text_encoder.") | {name: torch.ones(1) for name in others}


def kinetics_layout(network: AigcVqa) -> Weights:
    weights = part(network, "technical.backbone.", "backbone.") | indices(network, "backbone")
    weights = {name: x for name, x in weights.items() if "fragment_position_bias_table" not in name}
    return weights | {"cls_head.fc_cls.weight": torch.ones(400, 4)}


LAYOUTS = {
    "DOVER": (dover_layout, load_dover, ("technical.", "aesthetic.")),
    "BLIP": (blip_layout, load_blip, ("vision.", "text_encoder.")),
    "transformers": (transformers_layout, load_blip, ("vision.", "text_encoder.")),
}


@pytest.fixture
def other(small) -> AigcVqa:
    """A network whose every tensor differs from `network`'s."""
    return random_network(small, seed=6)


def changed(before: Weights, after: AigcVqa) -> set[str]:
    return {name for name, x in after.state_dict().items() if not torch.equal(x, before[name])}


@torch.inference_mode()
def test_our_own_file_gives_back_the_network(tmp_path, small, network, given):
    path = tmp_path / "w.safetensors"
    save_weights(network, path, is_trained=True)
    assert read_description(path) == (small, True)
    loaded, is_trained = load_weights(path)
    assert is_trained and not loaded.training
    assert weights_sha256(loaded) == weights_sha256(network)
    # What no file has, since it follows from the sizes, is there too.
    for actual, expected in zip(loaded(*given), network(*given), strict=True):
        assert torch.equal(actual, expected)


def test_our_own_file_may_be_of_a_network_without_adapter(tmp_path, small):
    path = tmp_path / "w.safetensors"
    save_weights(AigcVqa(dataclasses.replace(small, adapter=None)), path, is_trained=False)
    loaded, _ = load_weights(path)
    assert loaded.adapter is None


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"name": "diffvqa"}, "does not describe an? AIGC-VQA network .*of another metric"),
        (TINY.as_dict(), "does not fit this network: .*Missing key"),
    ],
    ids=["of_another_metric", "incomplete"],
)
def test_a_bad_weights_file_is_refused_in_a_sentence(tmp_path, config, complaint):
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"config": json.dumps(config)})
    with pytest.raises(ValueError, match=complaint):
        load_weights(path)


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w}, lambda w: {"state_dict": w}])
@pytest.mark.parametrize(("layout", "load", "parts"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_checkpoint_fills_its_parts_of_the_network_and_no_other(tmp_path, network, other, layout, load, parts, wrap):
    torch.save(wrap(layout(network)), tmp_path / "weights.pth")
    before = {name: x.clone() for name, x in other.state_dict().items()}
    load(other, tmp_path / "weights.pth")
    expected = network.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in other.state_dict().items() if name.startswith(parts))
    assert not {name for name in changed(before, other) if not name.startswith(parts)}


def test_a_checkpoint_may_be_a_safetensors_file_in_half_precision(tmp_path, network, other):
    weights = {name: x.half() if x.is_floating_point() else x for name, x in dover_layout(network).items()}
    save_file({name: x.clone() for name, x in weights.items()}, tmp_path / "dover.safetensors")
    load_dover(other, tmp_path / "dover.safetensors")
    weight, exact = other.technical.head.fc_hid.weight, network.technical.head.fc_hid.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, exact.half().float())


def test_dovers_file_has_as_many_tensors_as_the_specification_says():
    with torch.device("meta"):
        network = AigcVqa(PAPER)
    names = dover_layout(network)
    counts = [sum(name.startswith(part) for name in names) for part in ("technical_b", "aesthetic_b", "")]
    assert counts == [193, 180, 381]


@torch.inference_mode()
def test_image_rewards_normalisation_is_in_the_last_layer(tmp_path, network, other, given):
    torch.save(image_reward_layout(network), tmp_path / "ImageReward.pt")
    load_image_reward(other, tmp_path / "ImageReward.pt")
    state = torch.randn(5, 48)
    expected = (network.reward(state) - 0.16717362830052426) / 1.0333394966054072
    torch.testing.assert_close(other.reward(state), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(other.vision(given.resized), network.vision(given.resized))
    assert torch.equal(other.text_encoder.embeddings.LayerNorm.bias, network.text_encoder.embeddings.LayerNorm.bias)


def test_a_swin_of_kinetics_has_one_table_for_both(tmp_path, network, other):
    """γ·R + (1 − γ)·R = R."""
    torch.save({"state_dict": kinetics_layout(network)}, tmp_path / "swin.pth")
    load_kinetics_swin(other, tmp_path / "swin.pth")
    attention, source = (n.technical.backbone.layers[1].blocks[1].attn for n in (other, network))
    assert torch.equal(attention.relative_position_bias_table, source.relative_position_bias_table)
    assert torch.equal(attention.fragment_position_bias_table, source.relative_position_bias_table)
    assert torch.equal(attention.qkv.weight, source.qkv.weight)


def test_position_embeddings_of_another_resolution_are_interpolated(tmp_path, small, network, other):
    weights = blip_layout(network)
    wide = torch.randn(1, 1 + 8 * 8, 32)
    torch.save(weights | {"visual_encoder.pos_embed": wide}, tmp_path / "blip.pth")
    load_blip(other, tmp_path / "blip.pth")
    assert other.vision.pos_embed.shape == (1, 17, 32)
    assert torch.equal(other.vision.pos_embed[:, 0], wide[:, 0])


def test_windows_of_another_shape_are_refused(tmp_path, network, other):
    """The tables have as many rows, and each means something else."""
    weights = dover_layout(network)
    name = "technical_backbone.layers.1.blocks.0.attn.relative_position_index"
    torch.save(weights | {name: weights[name].flip(0)}, tmp_path / "DOVER.pth")
    with pytest.raises(ValueError, match=r"the windows of technical\.backbone\.layers\.1\.blocks\.0\.attn are others"):
        load_dover(other, tmp_path / "DOVER.pth")


def test_windows_of_more_frames_have_the_same_first_rows(tmp_path, small, network):
    """DOVER's window is 8 steps of time; of 8 frames there are 4."""
    shorter = random_network(dataclasses.replace(small, frames=2))
    torch.save(dover_layout(network), tmp_path / "DOVER.pth")
    load_dover(shorter, tmp_path / "DOVER.pth")
    assert torch.equal(shorter.technical.head.fc_last.bias, network.technical.head.fc_last.bias)


@pytest.mark.parametrize(
    ("layout", "load", "missing", "ours"),
    [
        (dover_layout, load_dover, "aesthetic_head.fc_last.bias", "aesthetic.head.fc_last.bias"),
        (image_reward_layout, load_image_reward, "mlp.layers.3.bias", "reward.layers.3.bias"),
        (blip_layout, load_blip, "visual_encoder.cls_token", "vision.cls_token"),
        (transformers_layout, load_blip, "vision_model.post_layernorm.bias", "vision.norm.bias"),
        (kinetics_layout, load_kinetics_swin, "backbone.norm.bias", "technical.backbone.norm.bias"),
    ],
    ids=["DOVER", "ImageReward", "BLIP", "transformers", "Swin"],
)
def test_a_missing_and_an_unknown_tensor_are_refused_by_name(tmp_path, network, other, layout, load, missing, ours):
    path = tmp_path / "weights.pth"
    weights = layout(network)
    torch.save({name: x for name, x in weights.items() if name != missing}, path)
    with pytest.raises(ValueError, match=f"weights.pth does not fit this network: it has no {ours}$"):
        load(other, path)
    torch.save(weights | {"backbone.stranger": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"this network has no (technical\.)?backbone\.stranger$"):
        load(other, path)


@pytest.mark.parametrize("load", [load_dover, load_image_reward, load_blip, load_kinetics_swin, load_convnext])
def test_what_is_no_checkpoint_is_refused_in_a_sentence(tmp_path, other, load):
    path = tmp_path / "weights.pth"
    torch.save(other, path)  # a pickle with code in it
    with pytest.raises(ValueError, match="weights.pth is not a checkpoint of ") as refusal:
        load(other, path)
    assert "\n" not in str(refusal.value)


def test_a_tensor_of_another_shape_is_refused_by_name(tmp_path, network, other):
    torch.save(blip_layout(network) | {"visual_encoder.cls_token": torch.ones(1, 1, 5)}, tmp_path / "blip.pth")
    with pytest.raises(ValueError, match=r"does not fit this network: .*size mismatch for vision\.cls_token"):
        load_blip(other, tmp_path / "blip.pth")
