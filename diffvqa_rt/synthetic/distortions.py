"""The catalogue of distortions: what each does to a clip, by how much at each of five severities, and what labels it.

A ladder is one type of distortion at rising severity. Its parameter slides along knots: where on its stretch between
two knots every rung lies is drawn per scene, the same for all rungs, so that the set has many rates and every ladder
stays in order. Whatever else is drawn (noise, angles, which frames) is the same for all rungs too.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from diffvqa_rt.synthetic.clip_files import CODECS, RgbClip, recode

SEVERITIES = (1, 2, 3, 4, 5)

# Of the way between two knots, how much of it a rung may slide: the rest keeps neighbours apart.
_SLIDE = 0.7

_GAMMA = 2.2

# Of frames: long enough for the network's eight of a clip to show it.
_LOST_AT_ONCE = 4

LabelKind = Literal["vmaf_v1", "order"]
"""The label is VMAF v1, or no number, and the order of the severities alone.

Measured on 65 scenes of 352×192 to 1920×1080: v1 and v0.6.1 put the pairs of all ladders but four in order, 94 % of low
light and of judder. Of sharpening v0.6.1 has 86 % and says 87 at the worst, its NEG form and v1 have all and say 35 and
21: v1 counts no enhancement as a gain. Of low light all say 0 from two stops on. Of temporal faults they see how far
frames are displaced, so in a still scene nothing.
"""

Drawn = dict[str, Any]
Effect = Callable[[RgbClip, float, np.random.Generator], tuple[RgbClip, Drawn]]
"""From a clip, the parameter and a generator to the distorted clip and what was drawn on the way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One effect, or the codec at the end, with the six knots that its parameter slides along."""

    effect: str
    parameter: str
    knots: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.effect not in EFFECTS and self.effect not in CODECS:
            raise ValueError(f"effect is {self.effect!r}; expected one of {', '.join([*EFFECTS, *CODECS])}")
        if len(self.knots) != len(SEVERITIES) + 1:
            raise ValueError(f"{self.effect} has {len(self.knots)} knots; expected {len(SEVERITIES) + 1}")

    def value(self, severity: int, slide: float) -> float:
        return round(float(np.interp(severity - 1 + slide, np.arange(len(self.knots)), self.knots)), 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """One type of distortion, what labels it, and whether it can be seen only where something moves.

    `share` is how much of the clip's length it damages, from a frame on that is drawn.
    """

    name: str
    label: LabelKind
    steps: tuple[Step, ...]
    needs_motion: bool = False
    share: float = 1.0

    def __post_init__(self) -> None:
        if any(step.effect in CODECS for step in self.steps[:-1]):
            raise ValueError(f"{self.name} has a step after its codec; expected the codec last")


@dataclass(frozen=True, kw_only=True, slots=True)
class Distorted:
    """A distorted clip, yet to be encoded, by `codec` at `crf` if it has one. `steps` records what was done."""

    frames: RgbClip
    codec: str | None
    crf: float
    steps: tuple[Mapping[str, Any], ...]


def distort(clip: RgbClip, ladder: Ladder, severity: int, key: str) -> Distorted:
    """The clip at one rung of a ladder; the same for the same `key`, which names the scene and the set's seed."""
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity!r}; expected one of {', '.join(map(str, SEVERITIES))}")
    slide = slide_of(ladder, key)
    first, last = _part(len(clip), ladder, key)
    frames, codec, crf, record = clip[first:last], None, 0.0, []
    for index, step in enumerate(ladder.steps):
        value = step.value(severity, slide)
        drawn: Drawn = {}
        if step.effect in CODECS:
            codec = step.effect
            crf = value = float(round(value)) if CODECS[codec].is_crf_whole else value
        else:
            generator = _generator(f"{key}/{ladder.name}/{index}")
            frames, drawn = EFFECTS[step.effect](frames, value, generator)
        record.append({"effect": step.effect, step.parameter: value} | drawn)
    if ladder.share < 1:
        if codec is not None:
            frames, codec, crf = recode(frames, codec, crf), None, 0.0
        frames = np.concatenate([clip[:first], frames, clip[last:]])
        record.append({"effect": "part", "frames": [first, last]})
    return Distorted(frames=frames, codec=codec, crf=crf, steps=tuple(record))


def _part(count: int, ladder: Ladder, key: str) -> tuple[int, int]:
    """The frames that are damaged, from the first to before the last."""
    length = round(ladder.share * count)
    first = int(_generator(f"{key}/{ladder.name}/part").integers(count - length + 1))
    return first, first + length


def slide_of(ladder: Ladder, key: str) -> float:
    """The distance of all rungs of a ladder from their knots to the next, 0 … 0.7 of the way, for one scene."""
    return _SLIDE * float(_generator(f"{key}/{ladder.name}").random())


def _generator(key: str) -> np.random.Generator:
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _each(clip: RgbClip, change: Callable[[NDArray[np.float32]], NDArray[np.floating]]) -> RgbClip:
    """The clip with each frame changed, frames as float32 from 0 to 255."""
    out = np.empty_like(clip)
    for index, frame in enumerate(clip):
        out[index] = np.clip(np.rint(change(frame.astype(np.float32))), 0, 255)
    return out


def _each_image(clip: RgbClip, change: Callable[[Image.Image], Image.Image]) -> RgbClip:
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in clip])


def scaling(clip: RgbClip, factor: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """Down by `factor` with antialiasing, and up again: what a platform's low rungs are."""
    height, width = clip.shape[1:3]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    kernel = ("bilinear", "bicubic", "lanczos")[int(generator.integers(3))]
    up = Image.Resampling[kernel.upper()]
    shown = _each_image(clip, lambda image: image.resize(small, Image.Resampling.BICUBIC).resize((width, height), up))
    return shown, {"upscaling": kernel}


def gaussian_blur(clip: RgbClip, sigma: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """Out of focus, by a Gaussian of `sigma` pixels."""
    return _each_image(clip, lambda image: image.filter(ImageFilter.GaussianBlur(sigma))), {}


def motion_blur(clip: RgbClip, length: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """A shaken camera: the mean along a line of `length` pixels."""
    angle = float(generator.uniform(0, 180))
    height, width = clip.shape[1:3]
    # Wide enough for the longest line, and sides that the transform is quick with.
    pad = 32
    down, across = np.fft.fftfreq(height + 2 * pad), np.fft.rfftfreq(width + 2 * pad)
    radians = np.deg2rad(angle)
    along = across * np.cos(radians) + down[:, None] * np.sin(radians)
    # The transform of the line, exact for any length and angle.
    transfer = np.sinc(length * along).astype(np.float32)

    def blur(frame: NDArray[np.float32]) -> NDArray[np.floating]:
        padded = np.pad(np.moveaxis(frame, -1, 0), [(0, 0), (pad, pad), (pad, pad)], mode="edge")
        blurred = np.fft.irfft2(np.fft.rfft2(padded) * transfer, s=padded.shape[1:])
        return np.moveaxis(blurred[:, pad:-pad, pad:-pad], 0, -1)

    return _each(clip, blur), {"angle_degrees": round(angle, 2)}


def sharpening(clip: RgbClip, amount: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """Over-sharpened by an unsharp mask: `amount` times what a Gaussian of `radius` pixels takes away is added."""
    radius = float(generator.uniform(0.8, 1.8))

    def sharpen(frame: NDArray[np.float32]) -> NDArray[np.floating]:
        blurred = Image.fromarray(frame.astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
        return frame + amount * (frame - np.asarray(blurred, np.float32))

    return _each(clip, sharpen), {"radius": round(radius, 3)}


def gaussian_noise(clip: RgbClip, sigma: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """White noise of `sigma` grey levels, independent per pixel, channel and frame."""
    return _each(clip, lambda frame: frame + sigma * generator.standard_normal(frame.shape, np.float32)), {}


def shot_noise(clip: RgbClip, photons: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """A sensor's noise when white is `photons`: its deviation grows with the root of the light.

    Normal rather than Poisson, so that the rungs share one pattern.
    """
    return _each(clip, lambda frame: _expose(frame, 1.0, photons, 0.0, generator)), {}


def low_light(clip: RgbClip, stops: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """As filmed `stops` under the right exposure: darker, with the shot and read noise of so little light."""
    return _each(clip, lambda frame: _expose(frame, 2.0**-stops, 4000.0, 2.0, generator)), {}


def _expose(
    frame: NDArray[np.float32], exposure: float, photons: float, read_noise: float, generator: np.random.Generator
) -> NDArray[np.floating]:
    light = (frame / 255) ** _GAMMA * (exposure * photons)
    caught = light + np.sqrt(light + read_noise**2) * generator.standard_normal(frame.shape, np.float32)
    return 255 * (np.maximum(caught, 0) / photons) ** (1 / _GAMMA)


def banding(clip: RgbClip, levels: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """Each channel rounded to `levels` even levels, without dither."""
    steps = round(levels) - 1
    return _each(clip, lambda frame: np.rint(frame * (steps / 255)) * (255 / steps)), {}


def jpeg(clip: RgbClip, quality: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """Each frame through a JPEG file of `quality`, 100 the best, chroma at half the side."""

    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=round(quality), subsampling="4:2:0")
        return Image.open(file)

    return _each_image(clip, compress), {}


def upload(clip: RgbClip, crf: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """Compressed once already, as what a platform is sent: H.264 at a rate factor of `crf`, decoded again."""
    return recode(clip, "h264", crf), {}


def frame_drops(clip: RgbClip, share: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """A `share` of the frames lost in runs, the one before in the place of each; a higher share loses those too."""
    count = len(clip)
    # The first frame has none before it.
    runs = [range(first, min(first + _LOST_AT_ONCE, count)) for first in range(1, count, _LOST_AT_ONCE)]
    order = [frame for run in generator.permutation(len(runs)) for frame in runs[int(run)]]
    shown = np.arange(count)
    shown[order[: max(1, round(share * (count - 1)))]] = 0
    return _show(clip, np.maximum.accumulate(shown))


def freeze(clip: RgbClip, share: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """One frame stands for a `share` of the clip, then the present goes on: what was live in between is lost."""
    count = len(clip)
    length = max(1, round(share * count))
    start = int(generator.integers(1, max(2, count // 8)))
    shown = np.arange(count)
    shown[start : start + length + 1] = start
    return _show(clip, shown)


def judder(clip: RgbClip, hold: float, generator: np.random.Generator) -> tuple[RgbClip, Drawn]:
    """A lower frame rate shown at this one: each frame stands for `hold` frames, unevenly where that is not whole."""
    steps = np.floor(np.arange(len(clip)) / hold + 1e-9)
    return _show(clip, np.ceil(steps * hold - 1e-9).astype(np.int64))


def _show(clip: RgbClip, shown: NDArray[np.int64]) -> tuple[RgbClip, Drawn]:
    return clip[shown], {"shown_frames": shown.tolist()}


EFFECTS: dict[str, Effect] = {
    effect.__name__: effect
    for effect in (
        scaling,
        gaussian_blur,
        motion_blur,
        sharpening,
        gaussian_noise,
        shot_noise,
        low_light,
        banding,
        jpeg,
        upload,
        frame_drops,
        freeze,
        judder,
    )
}


def _ladder(name: str, label: LabelKind, *steps: Step, needs_motion: bool = False, share: float = 1.0) -> Ladder:
    return Ladder(name=name, label=label, steps=steps, needs_motion=needs_motion, share=share)


_PART = 1 / 3


def _step(effect: str, parameter: str, *knots: float) -> Step:
    return Step(effect=effect, parameter=parameter, knots=knots)


LADDERS: dict[str, Ladder] = {
    ladder.name: ladder
    for ladder in (
        _ladder("h264", "vmaf_v1", _step("h264", "crf", 21, 28, 33, 38, 43, 49)),
        _ladder("h265", "vmaf_v1", _step("h265", "crf", 21, 29, 35, 40, 45, 50)),
        _ladder("av1", "vmaf_v1", _step("av1", "crf", 32, 46, 54, 58, 61, 63)),
        _ladder("vp9", "vmaf_v1", _step("vp9", "crf", 28, 43, 52, 58, 61, 63)),
        _ladder("scaling", "vmaf_v1", _step("scaling", "factor", 1.25, 1.7, 2.3, 3.2, 4.5, 6.5)),
        _ladder("gaussian_blur", "vmaf_v1", _step("gaussian_blur", "sigma", 0.4, 0.8, 1.2, 1.7, 2.4, 3.3)),
        _ladder("motion_blur", "vmaf_v1", _step("motion_blur", "length", 2, 3.5, 5.5, 8, 12, 17)),
        _ladder("gaussian_noise", "vmaf_v1", _step("gaussian_noise", "sigma", 3, 9, 18, 30, 46, 66)),
        _ladder("shot_noise", "vmaf_v1", _step("shot_noise", "photons", 900, 200, 65, 25, 11, 5)),
        _ladder("banding", "vmaf_v1", _step("banding", "levels", 40, 24, 15, 10, 7, 5)),
        _ladder("sharpening", "vmaf_v1", _step("sharpening", "amount", 0.5, 1.2, 2.2, 3.6, 5.5, 8)),
        _ladder("low_light", "order", _step("low_light", "stops", 0.4, 1.2, 2.2, 3.2, 4.2, 5.4)),
        _ladder(
            "frame_drops", "order", _step("frame_drops", "share", 0.15, 0.3, 0.45, 0.6, 0.75, 0.9), needs_motion=True
        ),
        _ladder("freeze", "order", _step("freeze", "share", 0.15, 0.25, 0.37, 0.5, 0.67, 0.85), needs_motion=True),
        _ladder("judder", "order", _step("judder", "hold", 3.2, 4, 5.2, 7, 10, 14), needs_motion=True),
        _ladder(
            "scaling_h264",
            "vmaf_v1",
            _step("scaling", "factor", 1.2, 1.6, 2.1, 2.8, 3.7, 4.8),
            _step("h264", "crf", 21, 26, 30, 33, 36, 40),
        ),
        _ladder(
            "scaling_av1",
            "vmaf_v1",
            _step("scaling", "factor", 1.2, 1.6, 2.1, 2.8, 3.7, 4.8),
            _step("av1", "crf", 32, 42, 49, 54, 58, 62),
        ),
        _ladder(
            "noise_h265",
            "vmaf_v1",
            _step("shot_noise", "photons", 2000, 700, 250, 100, 45, 20),
            _step("h265", "crf", 21, 27, 32, 36, 40, 45),
        ),
        _ladder(
            "blur_vp9",
            "vmaf_v1",
            _step("gaussian_blur", "sigma", 0.3, 0.6, 0.9, 1.3, 1.8, 2.4),
            _step("vp9", "crf", 24, 33, 41, 48, 54, 60),
        ),
        _ladder(
            "low_light_h264",
            "order",
            _step("low_light", "stops", 0.6, 1.4, 2.2, 3.0, 3.8, 4.6),
            _step("h264", "crf", 20, 24, 28, 32, 36, 40),
        ),
        _ladder(
            "upload_h264",
            "vmaf_v1",
            _step("upload", "crf", 20, 21.5, 23, 24.5, 26, 27.5),
            _step("h264", "crf", 21, 28, 33, 38, 43, 49),
        ),
        _ladder(
            "upload_av1",
            "vmaf_v1",
            _step("upload", "crf", 20, 21.5, 23, 24.5, 26, 27.5),
            _step("av1", "crf", 32, 46, 54, 58, 61, 63),
        ),
        _ladder("part_blur", "vmaf_v1", _step("gaussian_blur", "sigma", 0.6, 1, 1.5, 2.2, 3.2, 4.5), share=_PART),
        _ladder("part_noise", "vmaf_v1", _step("gaussian_noise", "sigma", 6, 12, 22, 34, 50, 70), share=_PART),
        _ladder("part_h264", "vmaf_v1", _step("h264", "crf", 24, 31, 36, 41, 46, 51), share=_PART),
    )
}
"""Every type of distortion in the set, by name."""

CODECS_AND_SCALINGS = (
    "h264",
    "h265",
    "av1",
    "vp9",
    "scaling",
    "scaling_h264",
    "scaling_av1",
    "upload_h264",
    "upload_av1",
)
"""The types that are VMAF's own field, and most of what platforms do."""


STILL_LADDERS: dict[str, Ladder] = {
    ladder.name: ladder
    for ladder in (
        *(
            ladder
            for ladder in LADDERS.values()
            if not ladder.needs_motion and ladder.share == 1 and ladder.steps[-1].effect not in CODECS
        ),
        _ladder("jpeg", "vmaf_v1", _step("jpeg", "quality", 75, 45, 25, 15, 9, 4)),
    )
}
"""The types of distortion of a still, by name: those of one frame that need no video codec, and JPEG."""
