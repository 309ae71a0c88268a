"""One clock for a stream whose packets' times start again, leap, stray or are missing.

Players meet all four: recordings that were put one after the other, an encoder that came back, a muxer's slip. What
follows a step back is moved behind what came before, as ffmpeg and players do; a time far from its neighbours', before
and after, is not believed; a time that is not there is that of the place that is free.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_TIME = np.iinfo(np.int64).min
"""Stands for a time that a packet does not carry."""

Times = NDArray[np.int64]
Flags = NDArray[np.bool_]

# The longest leap that is a pause, in formats whose clock may be set anew (ffmpeg's -dts_delta_threshold).
_LONGEST_PAUSE_SECONDS = 10
# Packets on either side that a time is held against, beside those that may be reordered, and how many of them may be
# strays themselves.
_NEIGHBOURS, _OTHER_STRAYS = 8, 2
# Packets among which the usual step from frame to frame is looked for.
_ROW = 16
# Packets that may follow one with a later time, where frames are reordered at all.
_FEWEST_OVERTAKEN = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stamps:
    """The times that a stream's packets carry, in decoding order, in units of `unit_seconds`.

    Attributes:
        pts, dts: presentation and decoding times, `NO_TIME` where a packet has none.
        durations: 0 where a packet has none.
        is_shown: false for what is decoded and not shown.
        is_key: as the container says.
        unit_seconds: of all times.
        is_dts_stored: whether decoding times are from the file, and not a guess of libavformat's.
        may_leap: whether the format's clock may be set anew on the way (transport streams).
    """

    pts: Times
    dts: Times
    durations: Times
    is_shown: Flags
    is_key: Flags
    unit_seconds: float
    is_dts_stored: bool
    may_leap: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clock:
    """The packets' times of display on one clock.

    Attributes:
        times: in the stamps' unit; those of packets that are not shown are unspecified.
        is_known: false where a time is filled in: the frame's place is then the one after its predecessor's.
        start, end: of the first frame, and of the last one's end.
        restarts: the positions of the packets at which the times start again or leap.
        strays, missing: how many were mended.
    """

    times: Times
    is_known: Flags
    start: int
    end: int
    restarts: tuple[int, ...]
    strays: int
    missing: int

    @property
    def is_mended(self) -> bool:
        return len(self.restarts) + self.strays + self.missing > 0


def clock_from_stamps(stamps: Stamps) -> Clock | None:
    """The clock of a stream; None where its times are none: missing for half of the frames, or standing still."""
    is_known = stamps.is_shown & (stamps.pts != NO_TIME)
    shown, known = int(stamps.is_shown.sum()), int(is_known.sum())
    missing = shown - known
    still = int((np.diff(stamps.pts[is_known]) == 0).sum())
    is_standing = 2 * still > known or known - 1 == still > 0
    if not known or 2 * missing >= shown or is_standing:
        return None
    step = _usual_step(stamps.pts[is_known])
    reorder = _reorder_span(stamps, is_known, step)
    overtaken = _overtaken(stamps.pts[is_known], reorder, step)
    is_stray = np.zeros_like(is_known)
    for stray in _find_strays(stamps, is_known, step, reorder, overtaken):
        is_stray[stray] = True
    is_known &= ~is_stray
    segments = _segment(stamps, is_known, step, reorder, overtaken)
    times = np.where(is_known, stamps.pts, 0)
    end: int | None = None
    for part in segments:
        own, inside = times[part], is_known[part]
        unknown = stamps.is_shown[part] & ~inside
        if unknown.any():
            own[unknown] = _fill(own, inside, unknown, step)
        placed = inside | unknown
        if end is not None:
            own[placed] += end - own[placed].min()
        first, last = own[placed].min(), int(np.argmax(np.where(placed, own, NO_TIME)))
        average = (own[last] - first) // max(int(placed.sum()) - 1, 1)
        end = int(own[last] + (stamps.durations[part][last] or average or step))
    assert end is not None
    return Clock(
        times=times,
        is_known=is_known,
        start=int(times[stamps.is_shown].min()),
        end=end,
        restarts=tuple(part.start for part in segments[1:]),
        strays=int(is_stray.sum()),
        missing=missing,
    )


def display_times_from_dts(dts: Times, delay: int) -> Times:
    """The times of the k-th frame shown, ascending, where only decoding times are stored (AVI), in whole frames.

    A decoder gives its first frame once it has `delay` more packets than that one, and so the k-th frame shown was due
    when packet k + delay was decoded, `delay` frames before that.
    """
    ordered = np.sort(dts)
    delay = min(delay, len(ordered) - 1)
    if not delay:
        return ordered
    times = ordered[delay:] - delay
    gap = int(times[-1] - times[-2]) if len(times) > 1 else 1
    return np.concatenate([times, times[-1] + gap * np.arange(1, delay + 1)])


def _usual_step(times: Times) -> int:
    """The time from one frame to the next, among few frames at a time, since other recordings have others."""
    rows = times[: len(times) // _ROW * _ROW].reshape(-1, _ROW) if len(times) >= _ROW else times[None]
    gaps = np.diff(np.sort(rows, axis=1), axis=1)
    return int(np.median(gaps[gaps > 0])) if gaps.any() else 0


def _reorder_span(stamps: Stamps, is_known: Flags, step: int) -> int:
    """The time by which times of display may go back and forth in decoding order."""
    both = is_known & (stamps.dts != NO_TIME)
    if not both.any():
        return 4 * step
    low, high = np.percentile(stamps.pts[both] - stamps.dts[both], [10, 90])
    return int(high - low)


def _tolerance(step: int, reorder: int) -> int:
    """The time by which one may be away from all of its neighbours'; a tenth of the frames may be reordered further."""
    return max(8 * step, 5 * reorder // 2)


def _overtaken(times: Times, reorder: int, step: int) -> int:
    """The number of packets with earlier times that may follow one in decoding order, strays apart."""
    if not reorder:
        return 0
    counts = np.zeros(len(times), np.int64)
    for distance in range(1, min(_window(reorder, step), len(times) - 1) + 1):
        counts[:-distance] += times[distance:] < times[:-distance]
    return max([_FEWEST_OVERTAKEN, *np.sort(counts)[: -1 - _OTHER_STRAYS].tolist()])


def _window(reorder: int, step: int) -> int:
    return _NEIGHBOURS + (reorder // step if step else 0)


def _find_strays(stamps: Stamps, is_known: Flags, step: int, reorder: int, overtaken: int) -> list[int]:
    """The packets whose time of display is far above, or below, that of all but two neighbours on both sides.

    The frame after a real pause is far above its neighbours too: those before it, and those after it that it overtook
    in decoding order. So more must follow a time that is too high, or precede one that is too low, than can be that.
    """
    tolerance, window = _tolerance(step, reorder), _window(reorder, step)
    positions = np.flatnonzero(is_known)
    times = stamps.pts[positions]
    steps = np.abs(np.diff(times)) > tolerance
    is_suspect = np.concatenate([[False], steps]) | np.concatenate([steps, [False]])
    # Without reordering, decoding times tell of a stray, also of one at an end.
    offsets = times - stamps.dts[positions] if stamps.is_dts_stored and not reorder else None
    strays = []
    for index in np.flatnonzero(is_suspect):
        before, after = times[max(index - window, 0) : index], times[index + 1 : index + 1 + window]
        if offsets is not None:
            is_stray = abs(int(offsets[index] - np.median(offsets))) > tolerance
        else:
            is_above = [side < times[index] - tolerance for side in (before, after)]
            is_below = [side > times[index] + tolerance for side in (before, after)]
            is_stray = (_is_beyond(is_above) and int(is_above[1].sum()) > overtaken) or (
                _is_beyond(is_below) and int(is_below[0].sum()) > overtaken
            )
        if is_stray:
            strays.append(int(positions[index]))
    return strays


def _is_beyond(sides: list[Flags]) -> bool:
    """True where there are neighbours on both sides, and a time is beyond all of them, two where there are more."""
    return all(
        side.any() and int((~side).sum()) <= (_OTHER_STRAYS if len(side) > _OTHER_STRAYS else 0) for side in sides
    )


def _segment(stamps: Stamps, is_known: Flags, step: int, reorder: int, overtaken: int) -> list[slice]:
    """The stretches of packets within which the clock runs on."""
    tolerance, at_keyframe = _tolerance(step, reorder), reorder
    longest_pause = _LONGEST_PAUSE_SECONDS / stamps.unit_seconds
    starts = [0]
    # The latest times so far: the last one of these may be believed, even if the others are strays after all, or have
    # overtaken frames from before a pause.
    kept = max(_OTHER_STRAYS, overtaken) + 1
    latest: list[int] = []
    decoded = NO_TIME
    positions = np.flatnonzero(is_known)
    columns = (positions, stamps.pts[positions], stamps.dts[positions], stamps.is_key[positions])
    for position, time, dts, is_key in zip(*(column.tolist() for column in columns), strict=True):
        if latest:
            behind = latest[-1] - time
            is_anew = behind > tolerance or (is_key and behind > at_keyframe)
            if stamps.is_dts_stored and NO_TIME not in (dts, decoded):
                is_anew |= dts < decoded - 3 * step // 2
                is_anew |= stamps.may_leap and min(dts - decoded, time - latest[0]) > longest_pause
            else:
                is_anew |= stamps.may_leap and time - latest[0] > longest_pause
            if is_anew:
                starts.append(position)
                latest = []
        latest, decoded = sorted([*latest, time], reverse=True)[:kept], dts
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(stamps.pts)], strict=True)]


def _fill(times: Times, is_known: Flags, is_unknown: Flags, step: int) -> Times:
    """Times for the packets without one: in their order, the free places of the grid nearest to where they lie."""
    positions = np.flatnonzero(is_known)
    grid = np.sort(times[positions])
    wanted = np.flatnonzero(is_unknown)
    guesses = np.interp(wanted, positions, grid)
    guesses += step * np.maximum(wanted - positions[-1], 0) - step * np.maximum(positions[0] - wanted, 0)
    if not step:
        return np.rint(guesses).astype(np.int64)
    widths = np.rint(np.diff(grid) / step).astype(np.int64)
    free = [
        int(grid[gap] + (grid[gap + 1] - grid[gap]) * place // widths[gap])
        for gap in np.flatnonzero(widths > 1)
        # A pause has no end of places; only as many as are wanted are of use.
        for place in range(1, min(int(widths[gap]), len(wanted) + 1))
    ]
    free += (grid[-1] + step * np.arange(1, 1 + int((wanted > positions[-1]).sum()))).tolist()
    filled = np.rint(guesses).astype(np.int64)
    totals = np.concatenate([[0], np.cumsum(free)])
    at = 0
    # Neighbours take places beside each other, or the first would leave one out that the next one wants.
    for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) > 1) + 1):
        size, goal = len(run), float(guesses[run].mean())

        def distance(start: int, size: int = size, goal: float = goal) -> float:
            return float(abs((totals[start + size] - totals[start]) / size - goal))

        while at + size < len(free) and distance(at + 1) < distance(at):
            at += 1
        for index in run:
            if at < len(free) and abs(free[at] - guesses[index]) <= 8 * step:
                filled[index] = free[at]
                at += 1
    return filled
