"""Weights in and out: our own safetensors files, and the checkpoints that the paper starts from, by name (SPEC §10).

Foreign files are safetensors, or pickles of tensors alone. Each of their tensors fills one of the network's or is on
the list of those that are left out; else the file is refused.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.models.aigc_vqa.convolutions import DepthwiseConv3d, PatchConv3d
from diffvqa_rt.models.aigc_vqa.network import AigcVqa
from diffvqa_rt.models.aigc_vqa.swin import WindowAttention
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

_DOVER = {r"^(technical|aesthetic)_(backbone|head)\.": r"\1.\2."}
_INDEX = ".relative_position_index"

_IMAGE_REWARD = {
    r"^blip\.visual_encoder\.": "vision.",
    r"^blip\.text_encoder\.": "text_encoder.",
    r"^mlp\.layers\.": "reward.layers.",
}
_OUTSIDE_IMAGE_REWARD = ("blip.vision_proj.*", "blip.text_proj.*", "*.position_ids")
# s_a = (x − mean) / std of what its MLP gives [ImageReward.py].
_REWARD_MEAN, _REWARD_STD = 0.16717362830052426, 1.0333394966054072

_BLIP = {r"^visual_encoder\.": "vision."}
_OUTSIDE_BLIP = (
    *("vision_proj.*", "text_proj.*", "itm_head.*", "text_decoder.*", "*.position_ids", "temp"),
    # Of its training with momentum.
    *("*_m.*", "image_queue", "text_queue", "*ptr_queue", "queue_ptr", "idx_queue"),
)
_CLASS_TOKEN = "vision_model.embeddings.class_embedding"
_TRANSFORMERS = {
    r"^vision_model\.embeddings\.class_embedding$": "vision.cls_token",
    r"^vision_model\.embeddings\.position_embedding$": "vision.pos_embed",
    r"^vision_model\.embeddings\.patch_embedding\.": "vision.patch_embed.proj.",
    r"^vision_model\.post_layernorm\.": "vision.norm.",
    r"^vision_model\.encoder\.layers\.": "vision.blocks.",
    r"^(vision\.blocks\.\d+)\.self_attn\.qkv\.": r"\1.attn.qkv.",
    r"^(vision\.blocks\.\d+)\.self_attn\.projection\.": r"\1.attn.proj.",
    r"^(vision\.blocks\.\d+)\.layer_norm([12])\.": r"\1.norm\2.",
}
_OUTSIDE_TRANSFORMERS = ("vision_proj.*", "text_proj.*", "itm_head.*", "*.position_ids")

_SWIN = {r"^backbone\.": "technical.backbone."}
_OUTSIDE_SWIN = ("cls_head.*",)
_RELATIVE, _FRAGMENT = "relative_position_bias_table", "fragment_position_bias_table"

_CONVNEXT = {r"^": "aesthetic.backbone."}
_OUTSIDE_CONVNEXT = ("head.*",)


def load_weights(path: Path) -> tuple[AigcVqa, bool]:
    """The network of a file that `save_weights` wrote, in evaluation mode, and whether it was trained.

    Raises:
        ValueError: the file is no safetensors file of an AIGC-VQA network, or a tensor is missing or of another shape.
    """
    config, is_trained = read_description(path)
    return network_from_state(AigcVqa, config, read_safetensors(path), path), is_trained


def read_description(path: Path) -> tuple[AigcVqaConfig, bool]:
    """The description of `load_weights`' network, and whether it was trained. Raises ValueError as that does."""
    return description_of(path, "AIGC-VQA", AigcVqaConfig.from_dict)


def load_dover(network: AigcVqa, path: Path) -> None:
    """Fills the technical and the aesthetic branch from DOVER.pth.

    Raises:
        ValueError: the file can't be read, a tensor is missing, unknown or of another shape, or the network's windows
            are not DOVER's.
    """
    weights = _named(read_checkpoint(path, "a checkpoint of DOVER", _WRAPPERS), _DOVER)
    _fill(network, _without_indices(network, weights, path), path, ("technical.", "aesthetic."))


def load_image_reward(network: AigcVqa, path: Path) -> None:
    """Fills vision encoder, text encoder and reward from ImageReward.pt; its normalisation goes into the last layer.

    Raises:
        ValueError: the file can't be read, or a tensor is missing, unknown or of another shape.
    """
    weights = _named(
        read_checkpoint(path, "a checkpoint of ImageReward", _WRAPPERS), _IMAGE_REWARD, _OUTSIDE_IMAGE_REWARD
    )
    last = f"reward.layers.{len(network.reward.layers) - 1}"
    for name, mean in ((f"{last}.weight", 0.0), (f"{last}.bias", _REWARD_MEAN)):
        if name in weights:
            weights[name] = ((weights[name].double() - mean) / _REWARD_STD).float()
    _fill(network, _with_positions(network, weights), path, ("vision.", "text_encoder.", "reward."))


def load_blip(network: AigcVqa, path: Path) -> None:
    """Fills vision and text encoder from a checkpoint of BLIP, in its own layout or in transformers'.

    Raises:
        ValueError: the file can't be read, or a tensor is missing, unknown or of another shape.
    """
    weights = read_checkpoint(path, "a checkpoint of BLIP", _WRAPPERS)
    if _CLASS_TOKEN in weights:
        weights = _named(weights, _TRANSFORMERS, _OUTSIDE_TRANSFORMERS)
    else:
        weights = _named(weights, _BLIP, _OUTSIDE_BLIP)
    _fill(network, _with_positions(network, weights), path, ("vision.", "text_encoder."))


def load_kinetics_swin(network: AigcVqa, path: Path) -> None:
    """Fills the technical backbone from a Video Swin of mmaction: F := R, with which γ has no say.

    Raises:
        ValueError: the file can't be read, a tensor is missing, unknown or of another shape, or the network's windows
            are not the file's.
    """
    weights = _named(read_checkpoint(path, "a checkpoint of Video Swin", _WRAPPERS), _SWIN, _OUTSIDE_SWIN)
    weights = _without_indices(network, weights, path)
    for name in network.state_dict():
        relative = name.replace(_FRAGMENT, _RELATIVE)
        if name.endswith(_FRAGMENT) and relative in weights:
            weights[name] = weights[relative]
    _fill(network, weights, path, ("technical.backbone.",))


def load_convnext(network: AigcVqa, path: Path) -> None:
    """Fills the aesthetic backbone from a ConvNeXt of pictures, inflated: a frame counts 1/k of a kernel of k frames.

    Raises:
        ValueError: the file can't be read, or a tensor is missing, unknown or of another shape.
    """
    weights = _named(read_checkpoint(path, "a checkpoint of ConvNeXt", _WRAPPERS), _CONVNEXT, _OUTSIDE_CONVNEXT)
    for module_path, module in network.aesthetic.backbone.named_modules():
        name = f"aesthetic.backbone.{module_path}.weight"
        if isinstance(module, (PatchConv3d, DepthwiseConv3d)) and name in weights and weights[name].ndim == 4:
            depth = module.kernel_size[0]
            weights[name] = weights[name][:, :, None].repeat(1, 1, depth, 1, 1) / depth
    _fill(network, weights, path, ("aesthetic.backbone.",))


def _named(weights: Weights, patterns: Mapping[str, str], outside: Iterable[str] = ()) -> Weights:
    """A file's tensors under our names, in float32, without those that are left out."""
    return {
        renamed(name, patterns): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
        if not any(fnmatchcase(name, pattern) for pattern in outside)
    }


def _without_indices(network: AigcVqa, weights: Weights, path: Path) -> Weights:
    """The weights without the rows of the tables, which follow from the windows, once they are seen to be the same."""
    kept = dict(weights)
    for module_path, module in network.named_modules():
        found = kept.pop(f"{module_path}{_INDEX}", None)
        if found is not None and isinstance(module, WindowAttention) and not _is_start(module.offsets, found):
            raise ValueError(f"{path} does not fit this network: the windows of {module_path} are others")
    return kept


def _is_start(offsets: Tensor, index: Tensor) -> bool:
    """True where the index is that of our windows, or of longer ones of which ours are the first frames."""
    tokens = len(offsets)
    return index.ndim == 2 and torch.equal(index[:tokens, :tokens], offsets)


def _with_positions(network: AigcVqa, weights: Weights) -> Weights:
    """The weights with position embeddings of another resolution interpolated."""
    name = "vision.pos_embed"
    if name not in weights:
        return weights
    return {**weights, name: resize_position_grid(weights[name], network.config.frame_tokens)}


def _fill(network: nn.Module, weights: Weights, path: Path, parts: tuple[str, ...]) -> None:
    """Fills the parts of the network whose names begin so, all of each."""
    state = network.state_dict()
    check_names(weights, path, expected=[name for name in state if name.startswith(parts)])
    fill_module(network, {**state, **weights}, path)
