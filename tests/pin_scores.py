"""Pins the scores of `tiny` by ONNX Runtime, so that no change of the code moves one unseen.

    python tests/pin_scores.py --engines build/tiny

The command prints what moved and writes `pinned_scores.json`; `test_pinned_scores.py` compares with that. Parity does
not replace this: it compares engines with torch code, and a change may shift both.

The pixels of each clip are the same on every machine. An encoder's bits change with its version, so a clip is an RGB
array, a lossless file (FFV1, PNG), or the committed H.264 file. Their decoders and our conversion to RGB are exact.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from clips import make_clip, moving_picture
from numpy.typing import NDArray
from pictures import encoded, picture

from diffvqa_rt import Scorer
from diffvqa_rt.engines import Manifest
from diffvqa_rt.errors import DiffVQAError

TABLE = Path(__file__).with_name("pinned_scores.json")
FROG = Path(__file__).parents[1] / "examples" / "frog.mp4"

# Another processor sums float32 in another order. Ten times the largest difference between ONNX Runtime and eager torch
# held to SSE4, AVX2 and AVX-512, which was 9e-5 of a score and 4.5e-6 of a weight.
TOLERANCES = {"score": 1e-3, "crop_scores": 1e-3, "frame_scores": 1e-3, "frame_weights": 5e-5}
DECIMALS = {"score": 4, "crop_scores": 4, "frame_scores": 4, "frame_weights": 7}

Values = dict[str, list[float]]
"""Fields of a `VideoScore`, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedClip:
    """A clip, and the options that it is scored with."""

    make: Callable[[], Path | bytes | NDArray[np.uint8]]
    seed: int = 0
    crops: int = 1


def moving_array(frames: int, width: int, height: int) -> NDArray[np.uint8]:
    """Frames of a moving picture, [T, H, W, 3] uint8 RGB."""
    return np.stack([moving_picture(index, width, height) for index in range(frames)])


def moving_file(**options: Any) -> bytes:
    """A lossless file with the frames of `moving_array` at 320×240."""
    return make_clip("ffv1", "matroska", pixel_format="bgr0", size=(320, 240), **options)


def turned_file() -> bytes:
    """A lossless file of Y'CbCr planes that declares BT.709, a quarter turn and a mirror."""
    y, x = np.mgrid[:240, :320]
    luma, cb, cr = (3 * x + 2 * y) % 220, (x + 2 * y)[:120, :160] % 225, (2 * x + y)[:120, :160] % 225
    planes = [(16 + plane).astype(np.uint8) for plane in (luma, cb, cr)]
    color, orientation = {"colorspace": 1}, (90, True)
    options = {"planes": planes, "color": color, "orientation": orientation, "frames": 6}
    return make_clip("ffv1", "matroska", size=(320, 240), **options)


CLIPS = {
    "frog.mp4": PinnedClip(make=lambda: FROG),
    "frog.mp4, 3 crops, seed 7": PinnedClip(make=lambda: FROG, crops=3, seed=7),
    "moving array": PinnedClip(make=lambda: moving_array(24, 320, 240)),
    "moving file": PinnedClip(make=moving_file),
    "moving file, uneven times": PinnedClip(
        make=lambda: moving_file(frames=9, times_ms=[0, 40, 80, 600, 640, 1400, 1440, 1520, 3000])
    ),
    "moving array, 3 frames of 64×48": PinnedClip(make=lambda: moving_array(3, 64, 48)),
    "turned file, BT.709": PinnedClip(make=turned_file),
    "still.png": PinnedClip(make=lambda: encoded(picture(3, 360, 270), "PNG")),
}


def score_clips(engines: Path) -> dict[str, Values]:
    """The present values of each clip. Raises DiffVQAError where a clip has no score."""
    values = {}
    with Scorer.open(engines) as scorer:
        for name, clip in CLIPS.items():
            result = scorer.score(clip.make(), seed=clip.seed, crops=clip.crops)
            values[name] = {field: np.ravel(getattr(result, field)).tolist() for field in TOLERANCES}
    return values


def read_table() -> dict[str, Values]:
    """The pinned values of each clip."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def write_table(values: dict[str, Values]) -> None:
    """Writes the values, rounded to less than their tolerances."""
    rounded = {
        name: {field: [round(number, DECIMALS[field]) for number in numbers] for field, numbers in fields.items()}
        for name, fields in values.items()
    }
    lines = [f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(fields)}" for name, fields in rounded.items()]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def moves(before: dict[str, Values], after: dict[str, Values]) -> list[str]:
    """A line, from → to, for each field of each clip that moved beyond its tolerance; empty where none did."""
    lines = [f"{name:32}  is pinned, and no clip any more" for name in before if name not in after]
    for name, values in after.items():
        if name not in before:
            lines.append(f"{name:32}  was not pinned")
            continue
        for place, old, new in _moved_fields(before[name], values):
            lines.append(f"{name:32}  {place:16}  {old:>11} → {new:>11}")
    return lines


def _moved_fields(before: Values, after: Values) -> Iterator[tuple[str, str, str]]:
    for field, tolerance in TOLERANCES.items():
        old, new = before[field], after[field]
        if len(old) != len(new):
            yield field, f"{len(old)} values", f"{len(new)} values"
            continue
        differences = np.abs(np.subtract(new, old))
        if not (differences <= tolerance).all():  # a NaN is a move
            worst = int(np.argmax(differences))
            yield f"{field}[{worst}]", f"{old[worst]:.{DECIMALS[field]}f}", f"{new[worst]:.{DECIMALS[field]}f}"


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 pinned, 1 not (one sentence on stderr)."""
    parser = argparse.ArgumentParser(description="Pin the scores of `tiny`; prints what moved.")
    parser.add_argument("--engines", type=Path, default=Path("build/tiny"), metavar="DIR", help="default: %(default)s")
    engines = parser.parse_args(argv).engines
    try:
        manifest = Manifest.read(engines)
        if manifest.model_label != "tiny":
            print(f"pin_scores.py: {engines} holds {manifest.model_label}; expected tiny", file=sys.stderr)
            return 1
        values = score_clips(engines)
    except DiffVQAError as error:
        print(f"pin_scores.py: {error}", file=sys.stderr)
        return 1
    moved = moves(read_table() if TABLE.exists() else {}, values)
    print("\n".join(moved) or "no score moved")
    write_table(values)
    print(f"wrote {len(values)} clips to {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
