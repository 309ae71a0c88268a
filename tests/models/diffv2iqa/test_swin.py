"""The small Swin (D21) against plain loops in float64."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.models.diffv2iqa.swin import Swin, WindowAttention

CHANNELS, HEADS, WINDOW = 8, 4, 4
CONFIG = dataclasses.replace(
    TINY.vcg, reduction=(16, CHANNELS), swin_channels=(CHANNELS, CHANNELS), swin_mlp=12, swin_scale=0.7
)

Weights = dict[str, Tensor]


def within(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def attention_by_loops(weights: Weights, patches: Tensor, grid: int, shift: int) -> Tensor:
    """Window attention of one view's patches [P, C], patch by patch, from what windows, shifts and seams mean."""
    q, k, v = (patches @ weights["qkv.weight"].T + weights["qkv.bias"]).split(CHANNELS, dim=1)
    width = CHANNELS // HEADS
    table = weights["bias.relative_position_bias_table"]
    out = torch.zeros_like(patches)
    places = [(row, column) for row in range(grid) for column in range(grid)]

    def rolled(place: tuple[int, int]) -> tuple[int, int]:
        return (place[0] - shift) % grid, (place[1] - shift) % grid

    for i, here in enumerate(places):
        row, column = rolled(here)
        same_window = [
            j
            for j, there in enumerate(places)
            if rolled(there)[0] // WINDOW == row // WINDOW and rolled(there)[1] // WINDOW == column // WINDOW
        ]
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            logits = []
            for j in same_window:
                down, right = row - rolled(places[j])[0], column - rolled(places[j])[1]
                bias = table[(down + WINDOW - 1) * (2 * WINDOW - 1) + right + WINDOW - 1, head]
                # Rolling brings the first rows behind the last ones: such neighbours are apart.
                is_apart = any((a < shift) != (b < shift) for a, b in zip(here, places[j], strict=True))
                logits.append(float(q[i, part] @ k[j, part]) / math.sqrt(width) + float(bias) - 100 * is_apart)
            exponentials = [math.exp(logit - max(logits)) for logit in logits]
            out[i, part] = sum(e * v[j, part] for e, j in zip(exponentials, same_window, strict=True)) / sum(
                exponentials
            )
    return out @ weights["proj.weight"].T + weights["proj.bias"]


def swin_by_loops(weights: Weights, maps: Tensor, grid: int) -> Tensor:
    """One view [C, g, g] through MANIQA's Swin, block by block."""

    def norm(patches: Tensor, name: str, block: Weights) -> Tensor:
        deviations = patches - patches.mean(1, keepdim=True)
        scaled = deviations / (deviations.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * block[f"{name}.weight"] + block[f"{name}.bias"]

    for layer in range(2):
        patches = maps.flatten(1).T
        for index, shift in enumerate((0, 2)):
            block = within(weights, f"layers.{layer}.blocks.{index}.")
            patches = patches + attention_by_loops(within(block, "attn."), norm(patches, "norm1", block), grid, shift)
            hidden = norm(patches, "norm2", block) @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"]
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            patches = patches + hidden @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]
        conv = within(weights, f"layers.{layer}.conv.")
        convolved = F.conv2d(patches.T.reshape(1, CHANNELS, grid, grid), conv["weight"], conv["bias"], padding=1)[0]
        maps = 0.7 * convolved.clamp(min=0) + maps
    return maps


def loud(module: torch.nn.Module) -> torch.nn.Module:
    """In float64 and evaluation mode, with biases that matter."""
    torch.manual_seed(4)
    for name, parameter in module.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter)
    return module.double().eval()


@pytest.mark.parametrize("shift", [0, 2])
@torch.inference_mode()
def test_attention_is_inside_windows_and_not_across_the_seam(shift):
    attention = loud(WindowAttention(CHANNELS, CONFIG, 8, shift))
    patches = torch.randn(2, 64, CHANNELS, dtype=torch.float64)
    for actual, view in zip(attention(patches), patches, strict=True):
        expected = attention_by_loops(attention.state_dict(), view, 8, shift)
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@torch.inference_mode()
def test_swin_is_as_by_loops():
    swin = loud(Swin(CHANNELS, CONFIG, 8))
    maps = torch.randn(2, CHANNELS, 8, 8, dtype=torch.float64)
    for actual, view in zip(swin(maps), maps, strict=True):
        torch.testing.assert_close(actual, swin_by_loops(swin.state_dict(), view, 8), rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_a_grid_of_one_window_is_not_shifted():
    """Views of 32×32. Its seam would part what lies side by side."""
    swin = loud(Swin(CHANNELS, CONFIG, WINDOW))
    assert not any(block.attn.bias.mask.any() for layer in swin.layers for block in layer.blocks)
    attention = swin.layers[0].blocks[1].attn
    patches = torch.randn(1, WINDOW**2, CHANNELS, dtype=torch.float64)
    expected = attention_by_loops(attention.state_dict(), patches[0], WINDOW, 0)
    torch.testing.assert_close(attention(patches)[0], expected, rtol=1e-11, atol=1e-11)


def test_files_of_weights_have_no_constants():
    names = Swin(CHANNELS, CONFIG, 8).state_dict().keys()
    assert not [name for name in names if not name.endswith(("weight", "bias", "relative_position_bias_table"))]
