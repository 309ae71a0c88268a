"""AIGC-VQA's networks are described by checked, frozen data that survives JSON."""

import dataclasses
import hashlib
import json
import math

import pytest
from prompted_network import SMALL

from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.metrics.aigc_vqa.presets import PAPER, PRESETS, TINY, TINY_VOCABULARY


@pytest.mark.parametrize("config", [*PRESETS.values(), dataclasses.replace(SMALL, adapter=None)], ids=repr)
def test_a_config_survives_json(config):
    assert AigcVqaConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_the_papers_sizes():
    assert (PAPER.frames, PAPER.temporal_tokens, PAPER.mini_patch, PAPER.map_side) == (16, 8, 32, 7)
    assert PAPER.stage_grids == ((8, 56, 56), (8, 28, 28), (8, 14, 14), (8, 7, 7))
    assert PAPER.swin.widths == (96, 192, 384, 768)
    assert PAPER.frame_tokens == TINY.frame_tokens == 197


def test_tinys_vocabulary_is_the_one_that_the_package_brings():
    content = TINY_VOCABULARY.read_bytes()
    assert hashlib.sha256(content).hexdigest() == TINY.text.vocabulary_sha256
    assert len(content.splitlines()) == TINY.text.vocabulary


@pytest.mark.parametrize(
    ("part", "change", "complaint"),
    [
        ("", {"frames": 5}, "frames is 5; expected an even number"),
        ("", {"view_size": 200}, "view_size is 200; expected a multiple of 32"),
        ("", {"grid": 9}, r"view_size is 224; expected a multiple of grid \(9\)"),
        ("", {"score_range": (1.0, 1.0)}, "score_range"),
        ("swin", {"window": (4, 6, 6)}, "windows are not padded"),
        ("swin", {"heads": (1, 2, 5, 8)}, "heads is"),
        ("swin", {"depths": (2, 2, 2, 0)}, "depths is"),
        ("convnext", {"depths": (3, 3, 3)}, "depths is"),
        ("vision", {"heads": 3}, "heads is 3; expected a divisor"),
        ("vision", {"patch_size": 15}, "vision.patch_size"),
        ("text", {"prompt_tokens": 65}, "prompt_tokens is 65; expected over 2 and at most positions"),
        ("text", {"heads": 3}, "heads is 3"),
        ("adapter", {"kernel": (2, 1, 1)}, "kernel is"),
        ("calibration", {"scale": math.nan}, "scale is nan; expected a finite number"),
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
        AigcVqaConfig.from_dict(TINY.as_dict() | {"colour": "red"})
