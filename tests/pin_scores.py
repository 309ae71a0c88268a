"""Pins the scores of a small network of each metric by ONNX Runtime, so that no change of the code moves one unseen.

    python tests/pin_scores.py --engines build/tiny

The command prints what moved and writes the metric's part of `pinned_scores.json`; `test_pinned_scores.py` compares
with that. Parity does not replace this: it compares engines with torch code, and a change may shift both.

The pixels of each clip are the same on every machine. An encoder's bits change with its version, so a clip is an RGB
array, a lossless file (FFV1, PNG), or the committed H.264 file. Their decoders and our conversion to RGB are exact.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from clips import make_clip, moving_picture
from numpy.typing import NDArray
from pictures import encoded, picture
from prompted_network import SMALL

from diffvqa_rt import Scorer
from diffvqa_rt.engines import Manifest
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.metrics.diffv2iqa.presets import TINY as IMAGE_TINY
from diffvqa_rt.metrics.diffvqa.presets import TINY

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
    """A clip, and the options of `Scorer.score` for it."""

    make: Callable[[], Path | bytes | NDArray[np.uint8]]
    options: Mapping[str, Any] = field(default_factory=dict)


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


def still_file() -> bytes:
    """A picture in PNG."""
    return encoded(picture(3, 360, 270), "PNG")


CROPS = {"crops": 3, "seed": 7}
PROMPT = {"prompt": "a green toy frog on a wooden table"}
VIDEO_CLIPS = {
    "frog.mp4": PinnedClip(make=lambda: FROG),
    "frog.mp4, 3 crops, seed 7": PinnedClip(make=lambda: FROG, options=CROPS),
    "moving array": PinnedClip(make=lambda: moving_array(24, 320, 240)),
    "moving file": PinnedClip(make=moving_file),
    "moving file, uneven times": PinnedClip(
        make=lambda: moving_file(frames=9, times_ms=[0, 40, 80, 600, 640, 1400, 1440, 1520, 3000])
    ),
    "moving array, 3 frames of 64×48": PinnedClip(make=lambda: moving_array(3, 64, 48)),
    "turned file, BT.709": PinnedClip(make=turned_file),
    "still.png": PinnedClip(make=still_file),
}
PICTURE_CLIPS = {
    "frog.mp4, 2 frames": PinnedClip(make=lambda: FROG, options={"frames": 2}),
    "moving array, 1 frame of 64×48": PinnedClip(make=lambda: moving_array(1, 64, 48), options={"crops": 1}),
    "still.png": PinnedClip(make=still_file),
    "still.png, 3 crops, seed 7": PinnedClip(make=still_file, options=CROPS),
}
PROMPTED_CLIPS = {
    "frog.mp4": PinnedClip(make=lambda: FROG, options=PROMPT),
    "frog.mp4, another prompt": PinnedClip(make=lambda: FROG, options={"prompt": "two red trains at night"}),
    "frog.mp4, no prompt": PinnedClip(make=lambda: FROG),
    "frog.mp4, 3 crops, seed 7": PinnedClip(make=lambda: FROG, options=PROMPT | CROPS),
    "moving file": PinnedClip(make=moving_file, options=PROMPT),
    "moving array, 3 frames of 64×48": PinnedClip(make=lambda: moving_array(3, 64, 48), options=PROMPT),
    "still.png": PinnedClip(make=still_file, options=PROMPT),
}
PINNED: Mapping[str, tuple[Any, Mapping[str, PinnedClip]]] = {
    "diffvqa": (TINY, VIDEO_CLIPS),
    "diffv2iqa": (IMAGE_TINY, PICTURE_CLIPS),
    "aigc_vqa": (SMALL, PROMPTED_CLIPS),
}
"""The network and the clips of each metric."""


def score_clips(engines: Path) -> dict[str, Values]:
    """The present values of each clip of the engines' metric. Raises DiffVQAError where a clip has no score."""
    values = {}
    with Scorer.open(engines) as scorer:
        _, clips = PINNED[scorer.manifest.metric_name]
        for name, clip in clips.items():
            result = scorer.score(clip.make(), **clip.options)
            values[name] = {field: np.ravel(getattr(result, field)).tolist() for field in TOLERANCES}
    return values


def read_table(metric: str) -> dict[str, Values]:
    """The pinned values of each clip of a metric; none where none are pinned."""
    return _read_tables().get(metric, {})


def _read_tables() -> dict[str, dict[str, Values]]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def write_table(metric: str, values: dict[str, Values]) -> None:
    """Writes the values in the place of the metric's, rounded to less than their tolerances."""
    rounded = {
        name: {field: [round(number, DECIMALS[field]) for number in numbers] for field, numbers in fields.items()}
        for name, fields in values.items()
    }
    tables = _read_tables() | {metric: rounded}
    parts = []
    for name in (name for name in PINNED if name in tables):
        lines = [f"    {json.dumps(clip, ensure_ascii=False)}: {json.dumps(row)}" for clip, row in tables[name].items()]
        parts.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


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
    for name, tolerance in TOLERANCES.items():
        old, new = before[name], after[name]
        if len(old) != len(new):
            yield name, f"{len(old)} values", f"{len(new)} values"
            continue
        differences = np.abs(np.subtract(new, old))
        if not (differences <= tolerance).all():  # a NaN is a move
            worst = int(np.argmax(differences))
            yield f"{name}[{worst}]", f"{old[worst]:.{DECIMALS[name]}f}", f"{new[worst]:.{DECIMALS[name]}f}"


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 pinned, 1 not (one sentence on stderr)."""
    parser = argparse.ArgumentParser(description="Pin the scores of a small network; prints what moved.")
    parser.add_argument("--engines", type=Path, default=Path("build/tiny"), metavar="DIR", help="default: %(default)s")
    engines = parser.parse_args(argv).engines
    try:
        manifest = Manifest.read(engines)
        metric = manifest.metric_name
        if manifest.config != PINNED[metric][0]:
            print(
                f"pin_scores.py: {engines} holds {manifest.model_label} of {metric}, which is not the network that "
                "tests score",
                file=sys.stderr,
            )
            return 1
        values = score_clips(engines)
    except DiffVQAError as error:
        print(f"pin_scores.py: {error}", file=sys.stderr)
        return 1
    moved = moves(read_table(metric), values)
    print("\n".join(moved) or "no score moved")
    write_table(metric, values)
    print(f"wrote {len(values)} clips to {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
