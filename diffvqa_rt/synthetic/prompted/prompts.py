"""Scenes of moving shapes, and sentences that tell of them, right or partly wrong.

The share of right attributes is a label of how well a clip shows its prompt, without anybody's opinion (SPEC §8).
"""

import dataclasses
import re
import string
from dataclasses import dataclass

import numpy as np

COUNTS = ("one", "two", "three", "four")
SIZES = ("small", "medium", "large")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (244, 140, 6),
    "yellow": (250, 220, 50),
    "green": (46, 160, 67),
    "blue": (36, 80, 220),
    "purple": (128, 50, 170),
    "pink": (250, 140, 190),
    "brown": (120, 72, 32),
    "white": (245, 245, 245),
    "black": (16, 16, 16),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "hexagon")
DIRECTIONS = {
    "to the left": (-1, 0),
    "to the right": (1, 0),
    "upwards": (0, -1),
    "downwards": (0, 1),
}
"""The step of each direction, right and down."""

SPEEDS = {"slowly": 0.12, "quickly": 0.5}
"""The way of a shape over the whole clip, in sides of the picture."""

TEXTURES = ("plain", "striped", "checkered", "dotted")

VALUES: dict[str, tuple[str, ...]] = {
    "count": COUNTS,
    "size": SIZES,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "direction": tuple(DIRECTIONS),
    "speed": tuple(SPEEDS),
    "background": tuple(COLOURS),
    "texture": TEXTURES,
}
"""The attributes of a scene, and what each may be."""

TEMPLATES = (
    "{count} {size} {colour} {shape} moving {speed} {direction} on a {texture} {background} background",
    "A video of {count} {size} {colour} {shape} drifting {speed} {direction} in front of a {texture} "
    "{background} wall.",
    "On a {texture} {background} background, {count} {size} {colour} {shape} sliding {speed} {direction}",
    "An animation: {count} {colour} {shape}, {size} in size, travelling {direction} {speed}; the background is "
    "{background} and {texture}.",
    "{count} {colour} {shape} floating {direction} over a {texture} {background} floor",
    "Generate {count} {size} {shape} gliding {speed} {direction}, with a {background} background",
    "{colour} {shape}, {count} in all, going {speed} {direction}",
    "A clip that shows {count} {size} {colour} {shape} on {texture} {background} paper, moving {direction}",
)
"""Sentences; each tells of the attributes that it names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeScene:
    """Like shapes that move alike before a patterned background.

    Attributes:
        count, size, colour, shape: of the shapes.
        direction, speed: of their motion.
        background, texture: the colour and the pattern behind them.
    """

    count: str
    size: str
    colour: str
    shape: str
    direction: str
    speed: str
    background: str
    texture: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A sentence about a scene, and the share of its attributes that the scene has, 0 to 1."""

    text: str
    right: float


def draw_scene(generator: np.random.Generator) -> ShapeScene:
    """A scene whose shapes have another colour than their background."""
    drawn = {name: _one_of(values, generator) for name, values in VALUES.items()}
    drawn["background"] = _another("background", drawn["colour"], generator)
    return ShapeScene(**drawn)


def draw_prompt(scene: ShapeScene, generator: np.random.Generator) -> Prompt:
    """A sentence in which any number of attributes, none and all among them, are replaced by others."""
    template = _one_of(TEMPLATES, generator)
    told = attributes_of(template)
    false = generator.permutation(told)[: generator.integers(len(told) + 1)].tolist()
    values = dataclasses.asdict(scene)
    values |= {name: _another(name, values[name], generator) for name in false}
    return Prompt(text=_sentence(template, values), right=(len(told) - len(false)) / len(told))


def attributes_of(template: str) -> tuple[str, ...]:
    """The attributes that a template tells of, in its order."""
    return tuple(name for _, name, _, _ in string.Formatter().parse(template) if name)


def vocabulary() -> tuple[str, ...]:
    """Every word that a prompt may have, in lower case and sorted."""
    literals = [literal for template in TEMPLATES for literal, *_ in string.Formatter().parse(template)]
    values = [value for values in VALUES.values() for value in values]
    text = " ".join([*literals, *values, *map(_plural, SHAPES)]).lower()
    return tuple(sorted(set(re.findall("[a-z]+", text))))


def _sentence(template: str, values: dict[str, str]) -> str:
    shape = values["shape"] if values["count"] == "one" else _plural(values["shape"])
    return template.format(**(values | {"shape": shape}))


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("ss") else f"{shape}s"


def _another(attribute: str, value: str, generator: np.random.Generator) -> str:
    return _one_of(tuple(other for other in VALUES[attribute] if other != value), generator)


def _one_of(values: tuple[str, ...], generator: np.random.Generator) -> str:
    return values[generator.integers(len(values))]
