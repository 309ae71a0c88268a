"""A labelled set of stills: pieces of pictures of your own at every severity of a few distortions.

    python -m diffvqa_rt.synthetic.stills photos/ --out build/stills

A label says how far down its ladder a picture is, 100 for a pristine one and nearly 0 at the ladder's end. It is no
opinion, and the same number means another quality on another ladder: it serves to see that a network can learn, and to
begin with.
"""

import argparse
import csv
import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diffvqa_rt.errors import DiffVQAError, SyntheticSetError
from diffvqa_rt.files import make_folder, write_whole
from diffvqa_rt.synthetic.distortions import SEVERITIES, STILL_LADDERS, distort, slide_of
from diffvqa_rt.video import crop_places

LABELS, PAIRS = "mos.csv", "pairs.csv"
"""The tables beside the pictures: `video,mos,content` for `diffvqa train csv=…`, `reference,distorted` for `adapt`."""

_BEST = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StillsConfig:
    """All that decides a set, but for its pictures.

    Attributes:
        stills: how many pictures, the first in the order of their contents' hashes; all of them if None.
        size: of the piece of each, pixels; a smaller picture is taken whole.
        ladders: types of distortion.
        ladders_per_still: how many of them a still gets, in turn.
    """

    stills: int | None = None
    size: int = 192
    ladders: tuple[str, ...] = tuple(STILL_LADDERS)
    ladders_per_still: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.ladders) - set(STILL_LADDERS):
            raise ValueError(f"ladders has {', '.join(sorted(unknown))}; expected some of {', '.join(STILL_LADDERS)}")
        for name, value in (("stills", self.stills or 1), ("size", self.size), ("ladders_per_still", 1)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")


def make_stills(places: Sequence[Path], out: Path, config: StillsConfig) -> int:
    """Makes the set of the pictures in folders and below, and of files; returns how many pictures it holds.

    Raises:
        SyntheticSetError: a place is not there, or no picture is.
        FileWriteError: the set cannot be written.
    """
    labels, pairs = [], []
    for number, (name, piece) in enumerate(_pieces(places, config)):
        reference = f"{name}/pristine.png"
        _write_png(out / reference, piece)
        labels.append((reference, f"{_BEST:g}", name))
        for turn in range(config.ladders_per_still):
            ladder = STILL_LADDERS[config.ladders[(number + turn) % len(config.ladders)]]
            key = f"{config.seed}/{name}"
            for severity in SEVERITIES:
                distorted = f"{name}/{ladder.name}-{severity}.png"
                _write_png(out / distorted, distort(piece[None], ladder, severity, key).frames[0])
                label = _BEST * (1 - (severity + slide_of(ladder, key)) / (1 + len(SEVERITIES)))
                labels.append((distorted, f"{label:.2f}", name))
                pairs.append((reference, distorted))
    _write_table(out / LABELS, ("video", "mos", "content"), labels)
    _write_table(out / PAIRS, ("reference", "distorted"), pairs)
    return len(labels)


def _pieces(places: Sequence[Path], config: StillsConfig) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The name of each still, which is the beginning of its hash, and a piece of it, [H, W, 3]."""
    suffixes = Image.registered_extensions()
    files: dict[str, Path] = {}
    for place in places:
        if not place.exists():
            raise SyntheticSetError(f"{place} is not there; expected a folder of pictures")
        for path in place.rglob("*") if place.is_dir() else [place]:
            if path.suffix.lower() in suffixes and path.is_file():
                files[hashlib.sha256(path.read_bytes()).hexdigest()] = path
    if not files:
        raise SyntheticSetError(f"{', '.join(map(str, places))}: no pictures")
    for digest in sorted(files)[: config.stills]:
        try:
            with Image.open(files[digest]) as image:
                whole = ImageOps.exif_transpose(image).convert("RGB")
        except OSError as error:
            raise SyntheticSetError(f"{files[digest]} cannot be read ({error}); remove it") from error
        across, down = (min(side, config.size) for side in whole.size)
        # A place that goes with the picture and not with its number.
        fractions = crop_places(int(digest[:12], 16), 1)[0]
        left, top = (
            int(f * (side - kept + 1)) for f, side, kept in zip(fractions, whole.size, (across, down), strict=True)
        )
        yield digest[:12], np.asarray(whole.crop((left, top, left + across, top + down)))


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    write_whole(path, lambda part: Image.fromarray(pixels).save(part, "PNG"))


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_whole(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))


def main(argv: list[str] | None = None) -> int:
    """The command: 0 done, 1 failed (a sentence on stderr says why), 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m diffvqa_rt.synthetic.stills",
        description="Make a set of stills with known faults, each labelled by how far down its ladder it is.",
        epilog=f"DIR gets a folder a still, {LABELS} (for `diffvqa train csv=DIR/{LABELS}`) and {PAIRS} (for `diffvqa "
        f"adapt --metric diffv2iqa DIR/{PAIRS}`).",
    )
    defaults = StillsConfig()
    parser.add_argument("media", nargs="+", type=Path, metavar="MEDIA", help="a folder of pictures, or a picture")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the set's folder")
    parser.add_argument("--stills", type=int, metavar="N", help="how many pictures to use (default: all)")
    parser.add_argument(
        "--size", type=int, default=defaults.size, help="of a piece of a picture, pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--ladders",
        default=",".join(STILL_LADDERS),
        metavar="NAME,…",
        help="types of distortion (default: all, %(default)s)",
    )
    parser.add_argument(
        "--ladders-per-still",
        type=int,
        default=defaults.ladders_per_still,
        metavar="N",
        help="of them, in turn (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="decides all that is random (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        config = StillsConfig(
            stills=arguments.stills,
            size=arguments.size,
            ladders=tuple(arguments.ladders.split(",")),
            ladders_per_still=arguments.ladders_per_still,
            seed=arguments.seed,
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        make_folder(arguments.out)
        count = make_stills(arguments.media, arguments.out, config)
    except DiffVQAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.out}: {count} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
