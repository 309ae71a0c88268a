"""A photograph filmed by a virtual camera that pans, zooms, turns a little and shakes, starting and ending softly."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.synthetic.clip_files import RgbClip

# Little: most photographs are hardly larger than the clips that are made of them.
_MOST_TURN_DEGREES = 0.4
_MOST_SHAKE_PIXELS = 2.0
# The photograph is made smaller first, to at most this many of its pixels across one of the clip's at the widest view:
# the camera then samples with a step near one, and nothing aliases.
_MOST_STEP = 2.2
# Where its step is more than this.
_OVERSAMPLING, _OVERSAMPLED_STEP = 2, 1.2
# Of a clip's width, a second.
_LEAST_SPEED = 0.02
_MOST_SPEED = 0.25
_MOST_ZOOM = 1.35


def room_needed(width: int, height: int) -> tuple[float, float]:
    """The size, in the clip's pixels, of what the camera may show at one zoom, turned and shaken."""
    sine = np.sin(np.deg2rad(_MOST_TURN_DEGREES))
    margin = 2 * _MOST_SHAKE_PIXELS + 2
    return float(width + height * sine + margin), float(height + width * sine + margin)


def film(
    photo: Image.Image,
    size: tuple[int, int],
    frames: int,
    seconds: float,
    least_reduction: float,
    generator: np.random.Generator,
) -> tuple[RgbClip, dict[str, object]]:
    """The clip, and what the camera did.

    Args:
        photo: RGB, at least `least_reduction` times `room_needed`.
        size: width and height of the clip, pixels.
        seconds: how long the clip is.
        least_reduction: pixels of the photograph across one of the clip's, at least.
    """
    room = room_needed(*size)
    most = min(photo.width / room[0], photo.height / room[1])
    shrink = max(1.0, most / _MOST_STEP)
    if shrink > 1:
        small = (round(photo.width / shrink), round(photo.height / shrink))
        photo = photo.resize(small, Image.Resampling.LANCZOS)
    # Of the smaller photograph, no pixel is to be drawn larger, if the whole one's are not.
    least = max(min(least_reduction, 1.0), least_reduction / shrink)
    path = camera_path(photo.size, size, frames, seconds, (min(least, most / shrink), most / shrink), generator)
    shots = np.empty((frames, size[1], size[0], 3), np.uint8)
    oversampling = _OVERSAMPLING if path[:, 2].max() > _OVERSAMPLED_STEP else 1
    large = (size[0] * oversampling, size[1] * oversampling)
    for index, (x, y, scale, turn) in enumerate(path):
        cosine, sine = scale / oversampling * np.array([np.cos(turn), np.sin(turn)])
        # From a point of the oversampled picture to the photograph's: turned about both centres.
        matrix = (
            *(cosine, -sine, x - cosine * large[0] / 2 + sine * large[1] / 2),
            *(sine, cosine, y - sine * large[0] / 2 - cosine * large[1] / 2),
        )
        view = photo.transform(large, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        shots[index] = np.asarray(view if oversampling == 1 else view.resize(size, Image.Resampling.LANCZOS))
    how = {
        "reductions": [round(float(path[at, 2] * shrink), 3) for at in (0, -1)],
        "centres": [[round(float(part * shrink), 1) for part in path[at, :2]] for at in (0, -1)],
    }
    return shots, how


def camera_path(
    photo_size: tuple[int, int],
    size: tuple[int, int],
    frames: int,
    seconds: float,
    reductions: tuple[float, float],
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Per frame [frames, 4]: the centre's x and y in the photograph's pixels, the reduction, the turn in radians."""
    time = np.linspace(0, 1, frames)
    # Between a steady move and one that starts and ends at rest.
    softness = generator.uniform(0.3, 1)
    eased = softness * time**2 * (3 - 2 * time) + (1 - softness) * time
    least, most = reductions
    middle = np.exp(generator.uniform(np.log(least), np.log(most)))
    zoom = np.exp(generator.uniform(0, np.log(_MOST_ZOOM)) * generator.integers(0, 2) / 2)
    ends = np.clip([middle / zoom, middle * zoom][:: generator.choice([-1, 1])], least, most)
    scale = np.exp(np.log(ends[0]) + np.log(ends[1] / ends[0]) * eased)
    room = np.array(room_needed(*size)) / 2
    # What the widest view leaves for the centre; a hair, not a negative number, where it leaves none.
    low = room * ends.max()
    high = np.maximum(np.array(photo_size) - low, low)
    speed = np.exp(generator.uniform(np.log(_LEAST_SPEED), np.log(_MOST_SPEED)))
    travel = speed * size[0] * seconds * middle
    direction = generator.uniform(0, 2 * np.pi)
    start = generator.uniform(low, high)
    step = travel * np.array([np.cos(direction), np.sin(direction)])
    # Away from the nearer edge, each way, where the other has not the room.
    step = np.where((start + step < low) | (start + step > high), -step, step)
    end = np.clip(start + step, low, high)
    centre = start + (end - start) * eased[:, None]
    amplitude = generator.uniform(0.1, 1) ** 2
    shake = np.stack([_shake(time, frames, generator) for _ in range(3)], axis=-1)
    centre = centre + amplitude * _MOST_SHAKE_PIXELS * shake[:, :2] * scale[:, None]
    turn = np.deg2rad(_MOST_TURN_DEGREES) * (
        0.5 * amplitude * shake[:, 2] + 0.5 * generator.uniform(-1, 1) * (2 * eased - 1)
    )
    return np.column_stack([centre, scale, turn])


def _shake(time: NDArray[np.float64], frames: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """A hand's shake, within ±1: slow sway strongest, nothing that two frames cannot carry."""
    most = np.minimum([1, 2.5, 5, 10], frames / 4)
    cycles = generator.uniform(np.minimum([0.5, 1, 2.5, 5], most), most)
    weights = 1 / cycles
    phases = generator.uniform(0, 2 * np.pi, 4)
    return (np.sin(2 * np.pi * cycles * time[:, None] + phases) * weights).sum(1) / weights.sum()
