"""The technical backbone's biases, windows and merging, token by token (SPEC §3)."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from diffvqa_rt.metrics.aigc_vqa.presets import PAPER
from diffvqa_rt.models.aigc_vqa.network import AigcVqa
from diffvqa_rt.models.aigc_vqa.swin import FoldedWindowAttention, PatchMerging, WindowAttention, windows_of

WIDTH, HEADS = 8, 2

Place = tuple[int, int, int]


def attention_of(grid: Place, most: Place, *, is_shifted: bool, mini_patches: int, has_gate: bool = True):
    """In float64, with tables that matter."""
    torch.manual_seed(3)
    windows = windows_of(grid, most, is_shifted, mini_patches)
    attention = WindowAttention(WIDTH, HEADS, most, windows, has_gate=has_gate)
    for name, parameter in attention.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter)
    return attention.double().eval()


def attention_by_loops(
    weights: dict[str, Tensor], tokens: Tensor, grid: Place, most: Place, *, is_shifted: bool, mini_patches: int
) -> Tensor:
    """Window attention of one video's tokens [P, C], token by token, from what windows, shifts and distances mean."""
    q, k, v = (tokens @ weights["qkv.weight"].T + weights["qkv.bias"]).split(WIDTH, dim=1)
    window = [min(pair) for pair in zip(grid, most, strict=True)]
    shift = [size // 2 if is_shifted and side > size else 0 for side, size in zip(grid, most, strict=True)]
    places = list(itertools.product(*(range(side) for side in grid)))

    def rolled(place: Place) -> list[int]:
        return [(at - by) % side for at, by, side in zip(place, shift, grid, strict=True)]

    def mini_patch(place: Place) -> tuple[int, int]:
        return place[1] * mini_patches // grid[1], place[2] * mini_patches // grid[2]

    def bias(here: Place, there: Place, head: int) -> float:
        steps = [a - b for a, b in zip(rolled(here), rolled(there), strict=True)]
        row = 0
        for step, size in zip(steps, most, strict=True):
            row = row * (2 * size - 1) + step + size - 1
        relative = float(weights["relative_position_bias_table"][row, head])
        # What has wrapped around the end is not beside what has not.
        is_apart = any((a < by) != (b < by) for a, b, by in zip(here, there, shift, strict=True))
        if "fragment_position_bias_table" in weights:
            distance = sum(abs(a - b) for a, b in zip(mini_patch(here), mini_patch(there), strict=True))
            fragment = float(weights["fragment_position_bias_table"][row, head])
            relative = distance * relative + (1 - distance) * fragment
        return relative - 100 * is_apart

    width = WIDTH // HEADS
    out = torch.zeros_like(tokens)
    for i, here in enumerate(places):
        windows = [[at // size for at, size in zip(rolled(place), window, strict=True)] for place in places]
        together = [j for j in range(len(places)) if windows[j] == windows[i]]
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            logits = [float(q[i, part] @ k[j, part]) / math.sqrt(width) + bias(here, places[j], head) for j in together]
            exponentials = [math.exp(logit - max(logits)) for logit in logits]
            total = sum(exponentials)
            out[i, part] = sum(e / total * v[j, part] for e, j in zip(exponentials, together, strict=True))
    return out @ weights["proj.weight"].T + weights["proj.bias"]


@pytest.mark.parametrize(
    ("grid", "most", "is_shifted", "mini_patches", "has_gate"),
    [
        ((2, 6, 6), (2, 3, 3), False, 2, True),
        ((2, 6, 6), (2, 3, 3), True, 2, True),
        ((4, 4, 4), (2, 2, 2), True, 2, True),  # shifted in time too
        ((1, 3, 3), (2, 3, 3), True, 3, True),  # one window, shorter than the tables
        ((2, 3, 3), (2, 3, 3), True, 3, False),  # the last stage
    ],
    ids=["even_block", "odd_block", "in_time", "few_frames", "no_gate"],
)
@torch.inference_mode()
def test_attention_is_as_token_by_token(grid, most, is_shifted, mini_patches, has_gate):
    sizes = {"is_shifted": is_shifted, "mini_patches": mini_patches}
    attention = attention_of(grid, most, has_gate=has_gate, **sizes)
    tokens = torch.randn(2, math.prod(grid), WIDTH, dtype=torch.float64)
    for actual, video in zip(attention(tokens), tokens, strict=True):
        expected = attention_by_loops(attention.state_dict(), video, grid, most, **sizes)
        # The softmax is in float32, whatever is around it.
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_the_gate_is_a_distance():
    """Both tables are constant: 3 and 5. In the paper's first stage the first window has pieces of 7×7, 7×1, 1×7, 1."""
    windows = windows_of((8, 56, 56), (8, 7, 7), True, 7)
    attention = WindowAttention(6, 1, (8, 7, 7), windows, has_gate=True)
    torch.nn.init.constant_(attention.relative_position_bias_table, 3.0)
    torch.nn.init.constant_(attention.fragment_position_bias_table, 5.0)
    # A window of the shifted grid is from row 3 and column 3 to 9: a mini-patch ends after 7.
    bias = attention.bias()[0, 0].unflatten(0, (8, 7, 7)).unflatten(3, (8, 7, 7))
    here = bias[0, 0, 0]
    assert here[0, 4, 4] == 5.0  # γ = 0: F
    assert here[0, 5, 4] == here[7, 4, 5] == 3.0  # γ = 1: R
    assert here[0, 5, 5] == 2 * 3.0 - 5.0  # γ = 2: no gate of 0 and 1 gives that
    assert torch.equal(bias.flatten(0, 2).flatten(1), bias.flatten(0, 2).flatten(1).T)


def test_mini_patches_are_counted_in_tokens_of_each_stage():
    """Eight, four and two tokens on a side, G = 7; the distance inside of a window is at most 2, 4 and 6."""
    for side, expected in ((56, 2), (28, 4), (14, 6)):
        found = windows_of((8, side, side), (8, 7, 7), False, 7).mini_patches
        assert (found[:, :, None] - found[:, None]).abs().sum(-1).max() == expected


def test_the_last_stage_has_no_second_table():
    with torch.device("meta"):
        backbone = AigcVqa(PAPER).technical.backbone
    tables = [[block.attn.fragment_position_bias_table for block in layer.blocks] for layer in backbone.layers]
    assert [[table is not None for table in layer] for layer in tables] == [
        [True] * 2,
        [True] * 2,
        [True] * 6,
        [False] * 2,
    ]
    assert tuple(tables[0][0].shape) == (15 * 13 * 13, 3)


def test_windows_are_shifted_in_space_and_not_in_time_at_the_papers_size():
    shifted, plain = (windows_of((8, 56, 56), (8, 7, 7), is_shifted, 7) for is_shifted in (True, False))
    assert shifted.order[0] == 3 * 56 + 3 and plain.order[0] == 0
    assert [len(numbers.unique()) for numbers in (shifted.regions[0], shifted.regions[-1])] == [1, 4]
    assert all(len(numbers.unique()) == 1 for numbers in plain.regions)
    assert torch.equal(shifted.order[shifted.inverse], torch.arange(8 * 56 * 56))


@torch.inference_mode()
def test_merging_puts_rows_before_columns():
    """Four tokens of one frame: (0, 0), (1, 0), (0, 1), (1, 1) beside each other before the norm."""
    merging = PatchMerging(1, (1, 2, 2))
    merging.norm = torch.nn.Identity()
    merging.reduction.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0], [1.0, 0.0, 0.0, 0.0]]))
    tokens = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])  # row by row
    assert merging(tokens).tolist() == [[[1.0 + 30.0 + 200.0 + 4000.0, 1.0]]]


@torch.inference_mode()
def test_a_folded_bias_is_the_bias():
    attention = attention_of((2, 6, 6), (2, 3, 3), is_shifted=True, mini_patches=2)
    folded = FoldedWindowAttention(attention)
    assert {name for name, _ in folded.named_parameters()} == {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias"}
    tokens = torch.randn(2, 72, WIDTH, dtype=torch.float64)
    assert torch.equal(folded(tokens), attention(tokens))
    assert set(attention.state_dict()) - set(folded.state_dict()) == {
        "relative_position_bias_table",
        "fragment_position_bias_table",
    }


def test_stochastic_depth_rises_to_a_tenth():
    with torch.device("meta"):
        layers = AigcVqa(PAPER).technical.backbone.layers
    rates = [block.drop_path.rate for layer in layers for block in layer.blocks]
    assert rates == pytest.approx([0.1 * index / 11 for index in range(12)])
