"""The benchmarks' arithmetic, against counts made by hand."""

import dataclasses

import pytest
import torch
from arithmetic import Arithmetic, chain_arithmetic, count, scan_flops, stage_arithmetic
from diffvqa_kernels.selective_scan import bidirectional_selective_scan
from torch import nn
from torch.nn import functional as F

from diffvqa_rt.metrics.aigc_vqa.presets import PAPER as AIGC_VQA_PAPER
from diffvqa_rt.metrics.aigc_vqa.presets import TINY as AIGC_VQA_TINY
from diffvqa_rt.metrics.diffv2iqa.presets import PAPER
from diffvqa_rt.metrics.diffv2iqa.presets import TINY as DIFFV2IQA_TINY
from diffvqa_rt.metrics.diffvqa.presets import SD21, TINY

FLOAT = 4


def counted(module, *shapes) -> Arithmetic:
    return count(module.to("meta"), tuple(torch.empty(shape, device="meta") for shape in shapes))


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs):
        return self._function(*inputs)


def test_a_convolution():
    # 5 outputs of 3×3×2 products and sums at each of 8×8 places of 3 images.
    work = counted(nn.Conv2d(2, 5, 3, padding=1), (3, 2, 8, 8))
    moved = FLOAT * (3 * 2 * 64 + 5 * 2 * 9 + 5 + 3 * 5 * 64)
    assert work == Arithmetic(flops=2 * 3 * 5 * 64 * 2 * 9, bytes=moved, operator_bytes=moved)


def test_a_linear_layer_with_an_activation():
    work = counted(nn.Sequential(nn.Linear(6, 4), nn.SiLU()), (10, 6))
    assert work.flops == 2 * 10 * 6 * 4
    weights, inputs, outputs = 6 * 4 + 4, 10 * 6, 10 * 4
    assert work.bytes == FLOAT * (inputs + weights + outputs)
    # The activation reads and writes what the layer wrote.
    assert work.operator_bytes == FLOAT * (inputs + weights + 3 * outputs)


def test_attention_is_one_operator_without_its_matrix():
    heads, length, width = 2, 64, 8
    work = counted(Call(F.scaled_dot_product_attention), *[(1, heads, length, width)] * 3)
    # Scores and their product with the values.
    assert work.flops == 2 * 2 * heads * length * length * width
    moved = 4 * FLOAT * heads * length * width
    assert work.bytes == work.operator_bytes == moved < FLOAT * heads * length * length


def test_a_scan():
    batch, dim, d_state, length = 3, 5, 4, 7
    shapes = [(batch, 2, dim, length)] * 2 + [(2, dim, d_state)] + [(batch, 2, d_state, length)] * 2
    shapes += [(2, dim), (batch, dim, length), (2, dim)]
    work = counted(Call(bidirectional_selective_scan), *shapes)
    # A state: Δ A, exp, · h, (Δ u) B, +, C h, +. A channel: + bias, softplus (2), Δ u, D u, +. A gate: +, silu (3), ·.
    by_hand = 2 * batch * dim * length * (7 * d_state + 6) + batch * dim * length * 5
    assert work.flops == scan_flops(*shapes) == by_hand
    arguments = sum(torch.Size(shape).numel() for shape in shapes)
    assert work.bytes == work.operator_bytes == FLOAT * (arguments + batch * dim * length)


def test_views_and_weights_that_are_read_twice_do_not_count_twice():
    layer = nn.Linear(6, 6)
    work = counted(Call(lambda x: layer.to("meta")(layer(x)).transpose(0, 1).flatten(0, 0)), (10, 6))
    assert work.bytes == FLOAT * (60 + 42 + 60)
    assert work.operator_bytes == 2 * FLOAT * (60 + 42 + 60)


def test_full_size_is_what_was_counted_elsewhere():
    """FLOPs of one latent in the step and one view in the VAE, and the step's weights in bfloat16."""
    config = dataclasses.replace(SD21, frames=1)
    work = stage_arithmetic("diffvqa", config, names=["unet_controller", "vae_encoder"], precision="bf16")
    assert work["unet_controller"].flops / 2 == pytest.approx(0.57e12, rel=0.03)
    assert work["vae_encoder"].flops / 2 == pytest.approx(0.62e12, rel=0.01)
    assert work["unet_controller"].bytes == pytest.approx(2.31e9, rel=0.03)


# Of the paper's branches 0.96 TFLOP, of which the fold of two convolutions into one (D35) saves 19 GFLOP.
@pytest.mark.parametrize(
    ("preset", "step", "branches"), [(DIFFV2IQA_TINY, 1.70e9, 2.4e9), (PAPER, 287e9, 0.96e12 - 19e9)]
)
def test_a_view_of_a_picture_is_what_the_specification_counts(preset, step, branches):
    work = stage_arithmetic("diffv2iqa", preset)
    assert work["restoration_step"].flops == pytest.approx(step, rel=0.005)
    assert work["quality_branches"].flops == pytest.approx(branches, rel=0.005)


# In GFLOP, in the digits that the specification has (§14); the whole is within a hundredth.
@pytest.mark.parametrize(
    ("preset", "stages", "all_of_it"),
    [
        (AIGC_VQA_TINY, (3.9, 3.1, 8 * 0.43, 0.48), 10.9),
        (AIGC_VQA_PAPER, (87.8, 72.7, 16 * 123.1, 135.0), 2265),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_generated_video_is_what_the_specification_counts(preset, stages, all_of_it):
    flops = [work.flops / 1e9 for work in stage_arithmetic("aigc_vqa", preset).values()]
    assert flops == pytest.approx(stages, rel=0.015)
    assert sum(flops) == pytest.approx(all_of_it, rel=0.005)


def test_a_frame_of_many_is_counted_alone():
    (whole,), (one,) = (
        stage_arithmetic("aigc_vqa", AIGC_VQA_TINY, names=["vision"], sizes=sizes).values()
        for sizes in (None, {"frames": 1})
    )
    assert whole.flops == AIGC_VQA_TINY.frames * one.flops


@pytest.mark.parametrize(
    ("metric", "preset"), [("diffvqa", TINY), ("diffv2iqa", DIFFV2IQA_TINY), ("aigc_vqa", AIGC_VQA_TINY)]
)
def test_arithmetic_grows_with_the_rows_and_weights_do_not(metric, preset):
    one, two = (stage_arithmetic(metric, preset, rows=rows) for rows in (1, 2))
    for stage in one:
        assert two[stage].flops == 2 * one[stage].flops
        assert one[stage].bytes < two[stage].bytes < 2 * one[stage].bytes
        assert one[stage].bytes < one[stage].operator_bytes


def test_several_calls():
    assert Arithmetic(flops=1, bytes=2, operator_bytes=3).times(10) == Arithmetic(flops=10, bytes=20, operator_bytes=30)


def test_a_loops_arithmetic_follows_its_steps():
    ten, one = (chain_arithmetic("diffvqa", TINY.with_steps(steps), names=["unet_controller"]) for steps in (10, 1))
    assert ten.keys() == one.keys() == {"denoise"}
    assert ten["denoise"].flops == 10 * one["denoise"].flops
    # A step is the same but for its tables, which are of ten steps.
    assert 10 < ten["denoise"].bytes / one["denoise"].bytes < 10.2
