"""The encoders against the libraries whose weights they take: transformers' BLIP, torchvision's Video Swin."""

import dataclasses

import pytest
import torch
from torch import nn
from vision_oracles import import_torchvision

from diffvqa_rt.metrics.aigc_vqa.config import SwinConfig, VisionConfig
from diffvqa_rt.metrics.aigc_vqa.presets import TINY
from diffvqa_rt.models.aigc_vqa.checkpoints import load_blip
from diffvqa_rt.models.aigc_vqa.network import random_network

# As measured, with room for another machine's order of sums: at most 4e-7.
_RELATIVE = 5e-6
_CLIP_MEAN, _CLIP_STD = (
    torch.tensor(values)[:, None, None]
    for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """transformers' BLIP with random weights at a small size, its file, and the network that has read it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BlipConfig(
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
        },
        text_config={
            "hidden_size": 48,
            "encoder_hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "vocab_size": 1024,
            "max_position_embeddings": 64,
            "hidden_act": "gelu",
        },
    )
    torch.manual_seed(0)
    theirs = transformers.BlipForImageTextRetrieval(config).eval()
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if "norm" in name.lower() and "weight" in name else 0.0, std=0.15)
    folder = tmp_path_factory.mktemp("blip")
    theirs.save_pretrained(folder)
    ours = random_network(
        dataclasses.replace(
            TINY,
            view_size=64,
            grid=2,
            swin=dataclasses.replace(TINY.swin, window=(4, 4, 4)),
            vision=VisionConfig(width=96, depth=3, heads=4),
            text=dataclasses.replace(TINY.text, width=48, layers=2, heads=3),
        )
    )
    load_blip(ours, folder / "model.safetensors")
    return theirs, ours


@torch.inference_mode()
def test_the_vision_encoder_is_blips(blip):
    theirs, ours = blip
    pixels = torch.rand(3, 3, 64, 64)
    expected = theirs.vision_model(pixel_values=(pixels - _CLIP_MEAN) / _CLIP_STD).last_hidden_state
    actual = ours.vision(2 * pixels[:, None] - 1)[:, 0]
    assert relative_error(actual, expected) < _RELATIVE


@torch.inference_mode()
def test_the_text_encoder_is_blips(blip):
    """Of prompts with padding, over the tokens of two frames."""
    theirs, ours = blip
    memory = torch.randn(2, 2 * 17, 96)
    token_ids = torch.randint(5, 1024, (2, 9))
    token_mask = torch.tensor([[1] * 4 + [0] * 5, [1] * 9])
    expected = theirs.text_encoder(
        input_ids=token_ids,
        attention_mask=token_mask,
        encoder_hidden_states=memory,
        encoder_attention_mask=torch.ones(2, 34, dtype=torch.long),
    ).last_hidden_state
    actual = ours.text_encoder(token_ids, token_mask, memory)
    assert relative_error(actual[:, 0], expected[:, 0]) < _RELATIVE
    assert relative_error(actual[token_mask == 1], expected[token_mask == 1]) < _RELATIVE


@pytest.mark.parametrize("frames", [16, 32])
@torch.inference_mode()
def test_the_technical_backbone_is_torchvisions_where_both_tables_are_one(frames):
    """swin3d_t's shape at a third of its width. torchvision has no F."""
    torchvision = import_torchvision()
    torch.manual_seed(0)
    theirs = torchvision.models.video.SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=24,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 3, 6],
        window_size=[8, 7, 7],
        stochastic_depth_prob=0.1,
    ).eval()
    swin = SwinConfig(width=24, depths=(2, 2, 2, 2), heads=(1, 2, 3, 6), window=(8, 7, 7))
    ours = random_network(dataclasses.replace(TINY, frames=frames, swin=swin)).technical.backbone
    theirs.load_state_dict(
        {
            **{name: x for name, x in theirs.state_dict().items() if name.endswith("index") or name.startswith("head")},
            **_torchvision_layout(ours.state_dict()),
        }
    )
    for block in (block for layer in ours.layers for block in layer.blocks):
        if block.attn.fragment_position_bias_table is not None:
            block.attn.fragment_position_bias_table.copy_(block.attn.relative_position_bias_table)
    pixels = torch.randn(1, frames, 3, 224, 224)
    expected = theirs.norm(theirs.features(theirs.pos_drop(theirs.patch_embed(pixels.transpose(1, 2)))))
    assert relative_error(ours(pixels), expected.flatten(1, 3)) < _RELATIVE


def _torchvision_layout(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in weights.items():
        if name.endswith("fragment_position_bias_table"):
            continue
        parts = name.split(".")
        if parts[0] == "layers":
            place = 2 * int(parts[1])
            parts[:2] = ["features", str(place + (parts[2] == "downsample"))]
            parts = [part for part in parts if part not in ("blocks", "downsample")]
        named[".".join(parts).replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")] = tensor
    return named
