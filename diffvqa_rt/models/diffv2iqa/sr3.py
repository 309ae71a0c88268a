"""A restorer's weights from a checkpoint of SR3's network, by name (SPEC §11)."""

from pathlib import Path

import torch

from diffvqa_rt.models.diffv2iqa.restorer import Block, Restorer, UNet
from diffvqa_rt.models.weights import Weights, fill_module, read_checkpoint

_PREFIX = "denoise_fn."

# SR3's names → ours.
_ENDS = {
    "noise_level_mlp.1": "noise_level.linear_1",
    "noise_level_mlp.3": "noise_level.linear_2",
    "downs.0": "unet.conv_in",
    "final_conv.block.0": "unet.norm_out",
    "final_conv.block.3": "unet.conv_out",
}
_BLOCK = {
    "res_block.block1.block.0": "residual.norm1",
    "res_block.block1.block.3": "residual.conv1",
    "res_block.block2.block.0": "residual.norm2",
    "res_block.block2.block.3": "residual.conv2",
    "res_block.res_conv": "residual.conv_shortcut",
    "attn": "attention",
}
_RESAMPLING = {"conv": "conv"}
# W_l of a block; one layer of ours gives the shifts of all blocks.
_SHIFT = "res_block.noise_func.noise_func.0"


def load_sr3(restorer: Restorer, path: Path) -> None:
    """Fills a restorer from SR3's generator (safetensors, or a .pth of tensors alone).

    Raises:
        ValueError: the file can't be read, holds a network of other sizes, or one with the other norm.
    """
    checkpoint = read_checkpoint(path, "an SR3 checkpoint")
    # Beside the network stand the tables of its noise schedule, which ours has of its own.
    theirs = {name.removeprefix(_PREFIX): value for name, value in checkpoint.items() if name.startswith(_PREFIX)}
    if not theirs:
        raise ValueError(f"{path} is not an SR3 checkpoint: no tensor's name begins with {_PREFIX}")
    has_statistics, needs_statistics = (
        any(name.endswith(".running_mean") for name in names) for names in (theirs, restorer.state_dict())
    )
    if needs_statistics and not has_statistics:
        raise ValueError(
            f"{path} has a GroupNorm network, without the running statistics that BatchNorm needs; load it into a "
            'restorer with norm="group"'
        )
    if has_statistics and not needs_statistics:
        raise ValueError(f'{path} has a BatchNorm network; load it into a restorer with norm="batch"')
    fill_module(restorer, _our_weights(theirs, restorer.unet), path)


def _our_weights(theirs: Weights, unet: UNet) -> Weights:
    """The tensors under our names; those without one of ours keep their own, which the check of the names refuses."""
    modules, shifts = dict(_ENDS), []
    for place, layers, first in (("downs", unet.downs, 1), ("mid", unet.mid, 0), ("ups", unet.ups, 0)):
        for index, layer in enumerate(layers):
            their_layer, our_layer = f"{place}.{first + index}", f"unet.{place}.{index}"
            parts = _BLOCK if isinstance(layer, Block) else _RESAMPLING
            modules |= {f"{their_layer}.{part}": f"{our_layer}.{ours}" for part, ours in parts.items()}
            if isinstance(layer, Block):
                shifts.append(f"{their_layer}.{_SHIFT}")
    ours = {}
    for kind in ("weight", "bias"):
        rows = [theirs.pop(name) for shift in shifts if (name := f"{shift}.{kind}") in theirs]
        ours[f"noise_level.to_shifts.{kind}"] = torch.cat(rows) if rows else torch.empty(0)
    for name, tensor in theirs.items():
        module = next((module for module in modules if name.startswith(f"{module}.")), None)
        ours[name if module is None else modules[module] + name.removeprefix(module)] = tensor
    return ours
