"""Pristine clips at the sizes of life: photographs filmed by a moving virtual camera, and cuts of videos."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.synthetic import camera
from diffvqa_rt.synthetic.clip_files import RgbClip
from diffvqa_rt.synthetic.pool import PoolItem
from diffvqa_rt.video.color import picture_from_frame
from diffvqa_rt.video.container import open_source, open_video

Split = Literal["train", "validation"]

ClipSize = tuple[int, int]
"""Width and height, pixels."""

SIZES: dict[ClipSize, float] = {
    (352, 192): 0.7,
    (640, 360): 1.0,
    (360, 640): 0.5,
    (854, 480): 1.0,
    (1280, 720): 2.0,
    (720, 1280): 2.0,
    (1920, 1080): 4.0,
}
"""The sizes of clips, each with how likely a content gets it before another: few sources are large enough for 1080p."""

LEAST_PHOTO_REDUCTION = 1.25
"""Pixels that a camera recorded across one of a clip's, of a photograph: with fewer, demosaicing and noise show.

A video's own compression is part of the reference, as it is of what people upload: a cut may have its size.
"""

# Of a photograph's file itself, across one of a clip's. Under one, since few are as wide as a clip of 1080 lines, whose
# pictures are then as soft as many cameras'.
_LEAST_STEP = 0.7
# Of the widest view, or of a step of one where that is wider, for the camera to move in.
_LEAST_ZOOM = 0.9

FRAME_RATES_HZ = (24, 25, 30, 50, 60)
"""The frame rates at which photographs are filmed."""

_PHOTOS_PER_VIDEO = 3
_THUMBNAIL = (64, 36)
_WINDOW_STRIDE = 8
# A change between two frames this many times the usual, in grey levels of a thumbnail, is a cut.
_CUT_RATIO, _CUT_LEVELS = 6.0, 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The source of one pristine clip; `cut` counts the clips of one content, each by a camera path of its own."""

    name: str
    item: PoolItem
    cut: int
    size: ClipSize
    split: Split


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PristineClip:
    """A rendered scene. `how` records what of the source it shows."""

    frames: RgbClip
    frame_rate_hz: Fraction
    how: dict[str, object]


def least_step(item: PoolItem, size: ClipSize) -> float:
    """The least number of the source file's pixels across one of a clip's; over `most_step`, it is too small."""
    if item.kind == "video":
        return 1.0
    wanted = _LEAST_ZOOM * min(most_step(item, size), 1.0)
    return max(LEAST_PHOTO_REDUCTION / item.reduction, _LEAST_STEP, wanted)


def most_step(item: PoolItem, size: ClipSize) -> float:
    """The most: all of the source, but for what the camera needs of a photograph to turn and shake."""
    room = camera.room_needed(*size) if item.kind == "photo" else size
    return min(item.width / room[0], item.height / room[1])


def is_large_enough(item: PoolItem, size: ClipSize) -> bool:
    """True where the source has enough pixels for clips of that size."""
    return least_step(item, size) <= most_step(item, size)


def split_groups(items: Sequence[PoolItem], seed: int, validation_share: float) -> dict[str, Split]:
    """The side of the split that each group of contents is on.

    Of the table's groups of videos and of photographs, each ordered by the seed, the first `validation_share` is for
    validation. It depends on nothing else, so that a set that grows, or is made without a package, moves no content.
    """
    sides: dict[str, Split] = {}
    for kind in ("video", "photo"):
        groups = sorted(
            {item.group for item in items if item.kind == kind}, key=lambda g: _fraction(f"{seed}/split/{g}")
        )
        count = round(validation_share * len(groups))
        sides |= {group: "validation" if place < count else "train" for place, group in enumerate(groups)}
    return sides


def plan_scenes(
    items: Sequence[PoolItem],
    *,
    contents: int | None,
    sizes: Sequence[ClipSize],
    cuts: int,
    seed: int,
    validation_share: float,
) -> list[Scene]:
    """The scenes of the first `contents` contents, in an order that the seed decides, a video after every third
    photograph; all first cuts, then all second ones.

    It is the table that is ordered, not what was fetched, and `contents` is a beginning of it: what is not there leaves
    a gap, and more contents add to the same ones. A content's cuts have sizes of their own, as long as it is large
    enough for another, and for validation it has one cut.
    """
    sides = split_groups(items, seed, validation_share)
    usable = [item for item in items if any(is_large_enough(item, size) for size in sizes)]
    ordered = sorted(usable, key=lambda item: _fraction(f"{seed}/order/{item.content}"))
    photos = [item for item in ordered if item.kind == "photo"]
    videos = [item for item in ordered if item.kind == "video"]
    rounds = itertools.zip_longest(
        videos, *(photos[start::_PHOTOS_PER_VIDEO] for start in range(_PHOTOS_PER_VIDEO)), fillvalue=None
    )
    mixed = [item for one_round in rounds for item in one_round if item is not None][:contents]
    scenes = []
    for cut, item in itertools.product(range(cuts), mixed):
        split = sides[item.group]
        if cut and split == "validation" and item.kind == "photo":
            continue
        likely = _sizes_in_turn(item, sizes, seed)
        size = likely[cut % len(likely)]
        scenes.append(Scene(name=f"{item.content}-{cut}", item=item, cut=cut, size=size, split=split))
    return scenes


def _sizes_in_turn(item: PoolItem, sizes: Sequence[ClipSize], seed: int) -> list[ClipSize]:
    """The sizes that the source is large enough for, each drawn before another as `SIZES` weighs them."""

    def place(size: ClipSize) -> float:
        return -(_fraction(f"{seed}/size/{item.content}/{size}") ** (1 / SIZES.get(size, 1.0)))

    return sorted((size for size in sizes if is_large_enough(item, size)), key=place)


def render_scene(scene: Scene, source: Path, *, frames: int, seed: int) -> PristineClip | None:
    """The scene's pristine clip; None if the video is too short for that many cuts.

    Raises:
        SyntheticSetError: the photograph cannot be read.
        VideoDecodeError: the video cannot be read.
    """
    digest = hashlib.sha256(f"{seed}/scene/{scene.name}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    if scene.item.kind == "photo":
        try:
            with Image.open(source) as image:
                photo = image.convert("RGB")
        except OSError as error:
            said = error.strerror or error
            raise SyntheticSetError(f"{source} cannot be read ({said}); start again to fetch it anew") from error
        rate = Fraction(int(generator.choice(FRAME_RATES_HZ)))
        shots, how = camera.film(
            photo, scene.size, frames, frames / float(rate), least_step(scene.item, scene.size), generator
        )
        return PristineClip(frames=shots, frame_rate_hz=rate, how=how)
    starts = _lively_starts(source, frames)
    if scene.cut >= len(starts):
        return None
    return _cut_video(source, starts[scene.cut], scene.size, frames, scene.cut == 0, generator)


def motion_of(frames: RgbClip) -> float:
    """The median over the frames of the mean change of the luma from the one before, grey levels."""
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return float(np.median(np.abs(np.diff(luma, axis=0)).mean((1, 2))))


def _lively_starts(source: Path, frames: int) -> list[int]:
    """The first frames of cuts that do not overlap, hold no change of scene, and move: the liveliest first."""
    thumbnails = [
        np.asarray(Image.fromarray(pixels).convert("L").resize(_THUMBNAIL, Image.Resampling.BOX), np.float32)
        for _, pixels in _decoded(source)
    ]
    changes = np.abs(np.diff(np.stack(thumbnails), axis=0)).mean((1, 2))
    windows = []
    for start in range(0, len(thumbnails) - frames + 1, _WINDOW_STRIDE):
        inside = changes[start : start + frames - 1]
        usual = float(np.median(inside))
        if inside.max() <= _CUT_RATIO * usual + _CUT_LEVELS:
            windows.append((usual, start))
    chosen: list[int] = []
    for _, start in sorted(windows, key=lambda window: (-window[0], window[1])):
        if all(abs(start - other) >= frames for other in chosen):
            chosen.append(start)
    return chosen


def _cut_video(
    source: Path, start: int, size: ClipSize, frames: int, is_whole: bool, generator: np.random.Generator
) -> PristineClip:
    rate = _frame_rate_hz(source)
    shots: list[NDArray[np.uint8]] = []
    box: tuple[float, float, float, float] | None = None
    reduction = 0.0
    for index, pixels in _decoded(source):
        if index < start:
            continue
        height, width = pixels.shape[:2]
        if box is None:
            most = min(width / size[0], height / size[1])
            reduction = most if is_whole else float(generator.uniform(1, most))
            across, down = reduction * size[0], reduction * size[1]
            left, top = generator.uniform(0, 1, 2) * (width - across, height - down)
            box = (float(left), float(top), float(left) + across, float(top) + down)
        shots.append(np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, box=box)))
        if len(shots) == frames:
            break
    if len(shots) < frames:
        raise SyntheticSetError(f"{source.name} has {start + len(shots)} frames at the second look; expected more")
    assert box is not None
    how = {"start_frame": start, "box": [round(side, 2) for side in box], "reduction": round(reduction, 3)}
    return PristineClip(frames=np.stack(shots), frame_rate_hz=rate, how=how)


def _decoded(source: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    with open_source(source) as (name, file), open_video(name, file) as video:
        for index, frame in enumerate(video.container.decode(video.stream)):
            yield index, picture_from_frame(frame, name, video.presentation).pixels


def _frame_rate_hz(source: Path) -> Fraction:
    with open_source(source) as (name, file), open_video(name, file) as video:
        rate = video.stream.average_rate or video.stream.guessed_rate or FRAME_RATES_HZ[0]
        return Fraction(rate).limit_denominator(1001)


def _fraction(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
