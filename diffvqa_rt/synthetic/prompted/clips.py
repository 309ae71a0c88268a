"""A labelled set of generated clips with prompts: moving shapes, and sentences that are right about part of them.

    python -m diffvqa_rt.synthetic.prompted.clips build/prompted --count 32

A label says which share of what the prompt tells is seen, in percent. It is no opinion: it serves to see that a network
can learn to read, and to begin with.
"""

import argparse
import csv
import io
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.files import make_folder, write_whole
from diffvqa_rt.synthetic.clip_files import RgbClip, write_clip
from diffvqa_rt.synthetic.prompted.prompts import (
    COLOURS,
    COUNTS,
    DIRECTIONS,
    SPEEDS,
    ShapeScene,
    draw_prompt,
    draw_scene,
)

LABELS = "mos.csv"
"""The table beside the clips: `video,prompt,mos`, for `diffvqa train csv=…`."""

FRAME_RATE_HZ = Fraction(8)

_RADII = {"small": 0.05, "medium": 0.08, "large": 0.115}  # of the shapes, in sides; a lane is a quarter of a side wide
_POLYGONS = {"square": 4, "triangle": 3, "diamond": 4, "hexagon": 6}
_OVERSAMPLING = 2
_PATTERN = 8  # stripes, and squares or dots, along a side


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptedClipsConfig:
    """All that decides a set.

    Attributes:
        count: how many clips; the first ones are the same in a larger set.
        frames: of a clip.
        size: the side of the square pictures, pixels; even, as video is stored.
    """

    count: int
    frames: int = 16
    size: int = 224
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("count", self.count, 1), ("frames", self.frames, 2), ("size", self.size, 32)):
            if value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
        if self.size % 2:
            raise ValueError(f"size is {self.size}; expected an even number")


def make_prompted_clips(out: Path, config: PromptedClipsConfig) -> None:
    """Makes the set: `clips/00000.mp4` and on, and the table `mos.csv`.

    Raises:
        SyntheticSetError: a clip cannot be encoded.
        FileWriteError: the set cannot be written.
    """
    rows = []
    for number in range(config.count):
        generator = np.random.default_rng((config.seed, number))
        scene = draw_scene(generator)
        prompt = draw_prompt(scene, generator)
        name = f"clips/{number:05}.mp4"
        write_clip(out / name, render_shapes(scene, config.size, config.frames, generator), FRAME_RATE_HZ)
        rows.append((name, prompt.text, f"{100 * prompt.right:.2f}"))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("video", "prompt", "mos"), *rows])
    write_whole(out / LABELS, lambda part: part.write_text(table.getvalue(), encoding="utf-8"))


def render_shapes(scene: ShapeScene, size: int, frames: int, generator: np.random.Generator) -> RgbClip:
    """The scene's clip, [frames, size, size, 3]: shapes in lanes of their own, all of them whole in every frame."""
    side = size * _OVERSAMPLING
    background = _background(scene, side)
    radius, way = _RADII[scene.size], SPEEDS[scene.speed]
    step = np.array(DIRECTIONS[scene.direction])
    along = int(step[1] != 0)
    number = COUNTS.index(scene.count) + 1
    middles = np.empty((number, 2))
    # The lanes' order and where in its room each shape is are random; the middle of its way is `middles`.
    middles[:, 1 - along] = (generator.permutation(len(COUNTS))[:number] + 0.5) / len(COUNTS)
    middles[:, along] = generator.uniform(radius + way / 2, 1 - radius - way / 2, number)
    clip = np.empty((frames, size, size, 3), np.uint8)
    for index, time in enumerate(np.linspace(-0.5, 0.5, frames)):
        picture = background.copy()
        draw = ImageDraw.Draw(picture)
        for x, y in (middles + time * way * step) * side:
            _draw_shape(draw, scene.shape, (float(x), float(y)), radius * side, COLOURS[scene.colour])
        clip[index] = np.asarray(picture.resize((size, size), Image.Resampling.BOX))
    return clip


def _background(scene: ShapeScene, side: int) -> Image.Image:
    """A pattern of the background's colour and of a darker, or of black a lighter, shade of it."""
    colour = np.array(COLOURS[scene.background])
    shade = tuple((colour * 0.7 if colour.max() > 64 else colour + 48).astype(int).tolist())
    picture = Image.new("RGB", (side, side), COLOURS[scene.background])
    draw, cell = ImageDraw.Draw(picture), side / _PATTERN
    for row in range(_PATTERN):
        if scene.texture == "striped":
            draw.rectangle((0, row * cell, side, (row + 0.5) * cell), shade)
        for column in range(_PATTERN):
            left, top = column * cell, row * cell
            if scene.texture == "checkered" and (row + column) % 2:
                draw.rectangle((left, top, left + cell, top + cell), shade)
            if scene.texture == "dotted":
                draw.ellipse((left + cell / 4, top + cell / 4, left + cell * 3 / 4, top + cell * 3 / 4), shade)
    return picture


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, middle: tuple[float, float], radius: float, colour: tuple[int, int, int]
) -> None:
    """Draws a shape with its corners on the circle of that radius, or the circle itself."""
    x, y = middle
    if shape in _POLYGONS:
        draw.regular_polygon((x, y, radius), _POLYGONS[shape], 45 if shape == "diamond" else 0, colour)
    elif shape == "star":
        turns = np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2, radius * 0.42, radius)
        draw.polygon([(x + r * np.sin(t), y - r * np.cos(t)) for t, r in zip(turns, radii, strict=True)], colour)
    elif shape == "cross":
        arm = radius / 3
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), colour)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), colour)
    else:
        assert shape in ("circle", "ring")
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, colour if shape == "circle" else None, colour, max(1, round(radius / 3)))


def main(argv: list[str] | None = None) -> int:
    """The command: 0 done, 1 failed (a sentence on stderr says why), 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m diffvqa_rt.synthetic.prompted.clips",
        description="Make clips of moving shapes, each with a prompt and the percentage of it that the clip shows.",
        epilog=f"DIR gets the clips and {LABELS}, for `diffvqa train csv=DIR/{LABELS}`.",
    )
    defaults = PromptedClipsConfig(count=1)
    parser.add_argument("out", type=Path, metavar="DIR", help="the set's folder")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many clips")
    parser.add_argument("--frames", type=int, default=defaults.frames, help="of a clip (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=defaults.size, help="side of the pictures, pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="decides all that is random (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        config = PromptedClipsConfig(
            count=arguments.count, frames=arguments.frames, size=arguments.size, seed=arguments.seed
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        make_folder(arguments.out)
        make_prompted_clips(arguments.out, config)
    except DiffVQAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.out}: {config.count} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
