"""DiffV²IQA's networks are described by checked, frozen data that survives JSON."""

import dataclasses
import json

import numpy as np
import pytest

from diffvqa_rt.chain_check import check_chain
from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig
from diffvqa_rt.metrics.diffv2iqa.metric import METRIC
from diffvqa_rt.metrics.diffv2iqa.presets import PAPER, PRESETS, TINY
from diffvqa_rt.sampler import alphas_cumprod, coefficient_table, noise_strengths


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_survives_json(preset):
    assert DiffV2IQAConfig.from_dict(json.loads(json.dumps(preset.as_dict()))) == preset


def test_the_papers_sizes():
    assert (PAPER.grid, PAPER.positions, PAPER.fused_channels, PAPER.vit_blocks) == (28, 784, 6912, 10)
    assert PAPER.vda.map_channels == (256, 512, 1024, 2048)
    assert (TINY.grid, TINY.fused_channels, TINY.vit_blocks) == (12, 864, 6)


@pytest.mark.parametrize(
    ("part", "change", "complaint"),
    [
        ("", {"view_size": 100}, "view_size is 100; expected a multiple of 32"),
        ("", {"view": "half"}, "view is 'half'; expected one of"),
        ("", {"frames": 0}, "frames is 0"),
        ("", {"kept": (4, 2)}, "kept is"),
        ("", {"kept": (2, 20)}, "kept is"),
        ("", {"branches": "vit"}, "branches is 'vit'"),
        ("", {"pictures": ("y_0",)}, "pictures is"),
        ("", {"score_range": (1.0, 1.0)}, "score_range"),
        ("sampler", {"train_steps": 1000}, "sampler.train_steps is 1000; expected steps"),
        ("sampler", {"variance": "none"}, "variance is 'none'; expected one of"),
        ("restorer", {"channels": (16, 32, 64)}, "over 3 levels"),
        ("restorer", {"channels": (12, 32, 64, 64)}, "multiples of norm_groups"),
        ("restorer", {"norm": "layer"}, "norm is 'layer'"),
        ("vit", {"heads": 5}, "heads is 5; expected a divisor"),
        ("vcg", {"blocks_x": (2, 6)}, "blocks from 0 to 5"),
        ("vcg", {"reduction": (192, 90)}, "reduction is"),
        ("vda", {"query": "x"}, "query is 'x'"),
    ],
)
def test_a_bad_value_is_refused_by_name(part, change, complaint):
    def changed():
        if part == "":
            return dataclasses.replace(TINY, **change)
        return dataclasses.replace(TINY, **{part: dataclasses.replace(getattr(TINY, part), **change)})

    with pytest.raises(ValueError, match=complaint):
        changed()


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="colour"):
        DiffV2IQAConfig.from_dict({**TINY.as_dict(), "colour": "red"})


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_chain_fits_the_engines_and_keeps_what_has_its_steps_left(preset):
    tensors = check_chain(METRIC.chain(preset), METRIC.engines(preset), METRIC.inputs(preset))
    assert tensors["y_t1"].shape == tensors["x"].shape == ("videos", 3, preset.view_size, preset.view_size)
    restore = METRIC.chain(preset)[0]
    left = {name: restore.count - 1 - turn for name, (_, turn) in restore.keep.items()}
    assert left == {"y_0": 0, "y_t1": preset.kept[0], "y_t2": preset.kept[1]}


def test_the_pictures_that_are_kept_stay_where_they_are_on_the_way():
    ten = PAPER.with_steps(10)  # t₁ = T/10 and t₂ = T/5, as D7 has it
    assert (ten.sampler.steps, ten.sampler.train_steps, ten.kept) == (10, 10, (1, 2))
    assert dataclasses.replace(ten, sampler=PAPER.sampler, kept=PAPER.kept) == PAPER
    assert METRIC.steps(ten) == 10 and METRIC.steps(TINY) == 20


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_steps_too_few_to_keep_two_pictures_are_refused(steps):
    with pytest.raises(
        ValueError, match=f"steps is {steps}; expected enough to keep two pictures on the way, as with 2"
    ):
        TINY.with_steps(steps)


def test_the_papers_schedule_has_the_posteriors_variance():
    # ᾱ of 5, 10 and 50 steps left, as the specification has them.
    assert alphas_cumprod(PAPER.sampler)[[4, 9, 49]] == pytest.approx([0.972, 0.899, 9.7e-7], rel=2e-3)
    assert noise_strengths(PAPER.sampler) == pytest.approx(np.ones(50), abs=1e-6)
    betas = dataclasses.replace(PAPER.sampler, variance="beta")
    assert noise_strengths(betas).max() > 1.1
    posterior, beta = coefficient_table(PAPER.sampler), coefficient_table(betas)
    np.testing.assert_array_equal(posterior[:, :4], beta[:, :4])
    assert posterior[-1, 4] == 0 and (posterior[:-1, 4] < beta[:-1, 4]).all()
