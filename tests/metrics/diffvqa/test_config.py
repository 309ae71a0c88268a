"""Networks are described by checked, frozen data that survives JSON."""

import dataclasses
import json

import numpy as np
import pytest

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import PRESETS, SD21, TINY


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_survives_json(preset):
    assert DiffVQAConfig.from_dict(json.loads(json.dumps(preset.as_dict()))) == preset


@pytest.mark.parametrize(
    ("part", "change", "complaint"),
    [
        ("", {"frames": 0}, "frames is 0"),
        ("", {"view_size": 100}, "view_size is 100; expected a multiple of 64"),
        ("", {"score_range": (1.0, 1.0)}, "score_range"),
        ("", {"crops": 0}, "crops is 0; expected a whole number from 1"),
        ("", {"crops": 2.0}, "crops is 2.0; expected a whole number"),
        ("", {"crop_placement": "centre"}, "crop_placement is 'centre'; expected one of"),
        ("unet", {"channels": (12, 32, 96, 96)}, "multiples of norm_groups"),
        ("vae", {"latent_channels": 8}, "latent_channels"),
        ("unet", {"attention_heads": (5, 2, 3, 3)}, "attention_heads"),
        ("sampler", {"schedule": "linear"}, "schedule is 'linear'; expected one of"),
        ("sampler", {"steps": 0}, "steps is 0"),
        ("sampler", {"latent_clamp": 0.0}, "latent_clamp"),
        ("sampler", {"variance": "none"}, "variance is 'none'; expected one of"),
        ("tcab", {"views": "left"}, "views is 'left'; expected one of"),
    ],
)
def test_a_bad_value_is_refused_by_name(part, change, complaint):
    def changed():
        if part == "":
            return dataclasses.replace(TINY, **change)
        if part == "tcab":
            return dataclasses.replace(TINY.head.tcab, **change)
        return dataclasses.replace(TINY, **{part: dataclasses.replace(getattr(TINY, part), **change)})

    with pytest.raises(ValueError, match=complaint):
        changed()


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="colour"):
        DiffVQAConfig.from_dict({**TINY.as_dict(), "colour": "red"})


def test_eq_2s_variance_goes_without_saying_and_another_is_kept():
    """Engines, checkpoints and caches of before there was a choice lack the field, and are to be known again."""
    assert "variance" not in TINY.as_dict()["sampler"]
    assert DiffVQAConfig.from_dict(TINY.as_dict()).sampler.variance == "beta"
    posterior = dataclasses.replace(TINY, sampler=dataclasses.replace(TINY.sampler, variance="posterior"))
    assert posterior.as_dict()["sampler"]["variance"] == "posterior"
    assert DiffVQAConfig.from_dict(json.loads(json.dumps(posterior.as_dict()))) == posterior != TINY
    assert "variance" not in TINY.describe() and "(scaled_linear, posterior variance)" in posterior.describe()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_another_number_of_steps_changes_nothing_else(preset):
    one = preset.with_steps(1)
    assert METRIC.steps(one) == one.sampler.steps == 1 and "1 denoising step (" in one.describe()
    assert dataclasses.replace(one, sampler=preset.sampler) == preset
    assert METRIC.engines(one) == METRIC.engines(preset)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_that_the_schedule_does_not_have_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; expected 1 … train_steps \\(1000\\)"):
        TINY.with_steps(steps)


def test_an_unknown_preset_lists_the_right_names():
    with pytest.raises(ValueError, match=f"expected one of {', '.join(PRESETS)}$"):
        METRIC.preset_named("tinny")


def test_engine_borders_follow_the_design():
    specs = engine_specs(SD21)
    assert list(specs) == ["vae_encoder", "unet_controller", "head"]
    assert [t.name for t in specs["unet_controller"].inputs] == ["z", "z0", "step"]
    assert specs["unet_controller"].outputs[1].shape == ("videos", "frames", 1280, 12, 12)
    assert specs["head"].inputs[-1].shape == ("videos", 16, 3, 384, 384)


def latents(*shape: int, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({"z": latents(1, 2, 4, 24, 24)}, "takes z, z0, step; got z$"),
        ({"z": latents(1, 2, 4, 24, 23)}, "takes z as float32"),
        ({"z": latents(2, 4, 24, 24)}, "takes z as float32"),
        ({"z": latents(1, 2, 4, 24, 24, dtype=np.float64)}, "got float64"),
        ({"z": latents(1, 2, 4, 24, 24), "z0": latents(1, 3, 4, 24, 24)}, "takes z0"),
    ],
    ids=["missing", "side", "rank", "dtype", "disagreeing_frames"],
)
def test_inputs_that_do_not_fit_are_named(inputs, complaint):
    if complaint[-1] != "$":
        inputs = {"z0": inputs["z"], "step": np.array([0]), **inputs}
    with pytest.raises(ValueError, match=complaint):
        engine_specs(TINY)["unet_controller"].check_inputs(inputs)
