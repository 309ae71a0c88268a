"""Generated clips with prompts: what they show is what their scenes say, alike for a seed."""

import csv
import dataclasses

import numpy as np
import pytest

from diffvqa_rt.synthetic.clip_files import read_clip
from diffvqa_rt.synthetic.prompted.clips import LABELS, main, render_shapes
from diffvqa_rt.synthetic.prompted.prompts import COLOURS, COUNTS, DIRECTIONS, SHAPES, SPEEDS, ShapeScene

SCENE = ShapeScene(
    count="one",
    size="medium",
    colour="red",
    shape="square",
    direction="upwards",
    speed="quickly",
    background="white",
    texture="plain",
)


def render(seed: int = 0, **attributes: str):
    return render_shapes(dataclasses.replace(SCENE, **attributes), 96, 5, np.random.default_rng(seed))


def is_shape(clip, colour: str = "red"):
    """[T, H, W]: the pixels of that colour; those at a shape's border are mixtures."""
    return (clip == COLOURS[colour]).all(-1)


def rows(folder) -> list[dict[str, str]]:
    with open(folder / LABELS, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("speed", SPEEDS)
def test_shapes_go_the_way_that_the_scene_says(direction, speed):
    places = [np.argwhere(shape).mean(0)[::-1] / 96 for shape in is_shape(render(direction=direction, speed=speed))]
    assert places[-1] - places[0] == pytest.approx(np.array(DIRECTIONS[direction]) * SPEEDS[speed], abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_whole_in_every_frame(shape):
    for seed in range(4):
        areas = is_shape(render(shape=shape, size="large", seed=seed)).sum((1, 2))
        assert areas.min() > 20 and areas.max() - areas.min() < 0.35 * areas.max()


def test_shapes_are_as_many_as_the_scene_says():
    one = is_shape(render()).sum((1, 2))
    for number, count in enumerate(COUNTS, 1):
        # Lanes of their own: none hides another.
        assert is_shape(render(count=count)).sum((1, 2)) == pytest.approx(number * one, rel=0.15)


def test_every_shape_size_colour_and_texture_looks_like_no_other():
    for name, values in {
        "shape": SHAPES,
        "size": ("small", "medium", "large"),
        "colour": ("red", "blue"),
        "texture": ("plain", "striped", "checkered", "dotted"),
    }.items():
        assert len({render(**{name: value}).tobytes() for value in values}) == len(values)


def test_the_command_makes_a_table_and_its_clips_alike_for_a_seed(tmp_path, capsys):
    for folder, count in (("a", "3"), ("b", "4")):
        assert main([str(tmp_path / folder), "--count", count, "--size", "64", "--frames", "4"]) == 0
    few, many = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert few == many[:3] and len(many) == 4 and list(few[0]) == ["video", "prompt", "mos"]
    for row in few:
        assert (tmp_path / "a" / row["video"]).read_bytes() == (tmp_path / "b" / row["video"]).read_bytes()
        assert read_clip(tmp_path / "a" / row["video"]).shape == (4, 64, 64, 3)
        assert 0 <= float(row["mos"]) <= 100
    assert "b: 4 clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--count", "0"], "count is 0; expected at least 1"),
        (["--count", "1", "--size", "65"], "size is 65; expected an even number"),
        (["--count", "1", "--frames", "1"], "frames is 1; expected at least 2"),
    ],
)
def test_a_bad_number_is_a_sentence(tmp_path, capsys, arguments, sentence):
    with pytest.raises(SystemExit):
        main([str(tmp_path), *arguments])
    assert sentence in capsys.readouterr().err
