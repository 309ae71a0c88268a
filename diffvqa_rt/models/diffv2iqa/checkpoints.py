"""Weights in and out: our own safetensors files, and the encoders' checkpoints as others publish them.

The encoders' are read by name, never through a library's classes. `sr3` reads the restorer's.
"""

import re
from pathlib import Path

import torch

from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig
from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA
from diffvqa_rt.models.diffv2iqa.resnet import ResNet
from diffvqa_rt.models.diffv2iqa.vit import ViT
from diffvqa_rt.models.weights import (
    Weights,
    check_names,
    description_of,
    fill_module,
    network_from_state,
    read_checkpoint,
    read_safetensors,
    renamed,
    resize_position_grid,
)

_WRAPPERS = ("state_dict", "model")

# Patterns of a name and what stands for them in timm's, one after the other.
_TORCHVISION = {
    r"^class_token$": "cls_token",
    r"^encoder\.pos_embedding$": "pos_embed",
    r"^conv_proj\.": "patch_embed.proj.",
    r"^heads\.": "head.",
    r"^encoder\.ln\.": "norm.",
    r"^encoder\.layers\.encoder_layer_": "blocks.",
    r"^(blocks\.\d+)\.ln_([12])\.": r"\1.norm\2.",
    r"^(blocks\.\d+)\.self_attention\.in_proj_": r"\1.attn.qkv.",
    r"^(blocks\.\d+)\.self_attention\.out_proj\.": r"\1.attn.proj.",
    # `linear_1` and `linear_2` in older files.
    r"^(blocks\.\d+)\.mlp\.(0|linear_1)\.": r"\1.mlp.fc1.",
    r"^(blocks\.\d+)\.mlp\.(3|linear_2)\.": r"\1.mlp.fc2.",
}
_TRANSFORMERS = {
    r"^vit\.": "",
    r"^embeddings\.cls_token$": "cls_token",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"^(pooler|classifier)\.": "head.",
    r"^layernorm\.": "norm.",
    r"^encoder\.layer\.": "blocks.",
    r"^(blocks\.\d+)\.layernorm_before\.": r"\1.norm1.",
    r"^(blocks\.\d+)\.attention\.attention\.": r"\1.attn.",
    r"^(blocks\.\d+)\.attention\.output\.dense\.": r"\1.attn.proj.",
    r"^(blocks\.\d+)\.layernorm_after\.": r"\1.norm2.",
    r"^(blocks\.\d+)\.intermediate\.dense\.": r"\1.mlp.fc1.",
    r"^(blocks\.\d+)\.output\.dense\.": r"\1.mlp.fc2.",
}
# Apart in transformers' layout, one matrix in timm's.
_STACKED = ("query", "key", "value")

_OUTSIDE_VIT = ("norm.", "fc_norm.", "head.")
_OUTSIDE_RESNET = "fc."
# Files from before BatchNorm counted its batches load too.
_COUNTER = "num_batches_tracked"


def load_weights(path: Path) -> tuple[DiffV2IQA, bool]:
    """The network of a file that `save_weights` wrote, in evaluation mode, and whether it was trained.

    Raises:
        ValueError: the file is no safetensors file of a DiffV²IQA network, or a tensor is missing or of another shape.
    """
    config, is_trained = read_description(path)
    return network_from_state(DiffV2IQA, config, read_safetensors(path), path), is_trained


def read_description(path: Path) -> tuple[DiffV2IQAConfig, bool]:
    """The description of `load_weights`' network, and whether it was trained. Raises ValueError as that does."""
    return description_of(path, "DiffV²IQA", DiffV2IQAConfig.from_dict)


def load_vit(vit: ViT, path: Path) -> None:
    """Fills a ViT from a checkpoint (safetensors, or a .pth with tensors alone) in timm's, torchvision's or
    transformers' layout.

    The blocks after those that run, the final norm and the head are left out. Position embeddings of another resolution
    are interpolated.

    Raises:
        ValueError: the file can't be read, or a tensor is missing, unknown or of another shape.
    """
    weights = _with_timm_names(read_checkpoint(path, "a ViT checkpoint", _WRAPPERS))
    kept = {
        name: tensor.float()
        for name, tensor in weights.items()
        if not name.startswith(_OUTSIDE_VIT) and not _block_of(name) >= len(vit.blocks)
    }
    if "pos_embed" in kept:
        kept["pos_embed"] = resize_position_grid(kept["pos_embed"], vit.pos_embed.shape[1])
    check_names(kept, path, expected=vit.state_dict())
    fill_module(vit, kept, path)


def load_resnet(resnet: ResNet, path: Path) -> None:
    """Fills a ResNet from a checkpoint (safetensors, or a .pth with tensors alone) in torchvision's layout.

    timm's `resnet50.tv_in1k` has the same. The classifier is left out.

    Raises:
        ValueError: the file can't be read, or a tensor is missing, unknown or of another shape.
    """
    weights = read_checkpoint(path, "a ResNet checkpoint", _WRAPPERS)
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(_OUTSIDE_RESNET)}
    expected = [name for name in resnet.state_dict() if not name.endswith(_COUNTER)]
    check_names(kept, path, expected=expected, optional=resnet.state_dict())
    fill_module(resnet, kept, path)


def _block_of(name: str) -> int:
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _with_timm_names(weights: Weights) -> Weights:
    """The same tensors under timm's names, in whichever layout they are; a name that no layout has stays."""
    if "class_token" in weights:
        return {renamed(name, _TORCHVISION): tensor for name, tensor in weights.items()}
    if weights.keys().isdisjoint({"embeddings.cls_token", "vit.embeddings.cls_token"}):
        return weights
    named = {renamed(name, _TRANSFORMERS): tensor for name, tensor in weights.items()}
    for query in [name for name in named if ".attn.query." in name]:
        parts = [query.replace("query", part) for part in _STACKED]
        if all(part in named for part in parts):
            named[query.replace("query", "qkv")] = torch.cat([named.pop(part) for part in parts])
    return named
