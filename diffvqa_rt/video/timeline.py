"""When each frame of a video is on screen, from its packets alone: nothing is decoded, no header is believed."""

from array import array
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video.container import VideoFile

NO_TIME = np.iinfo(np.int64).min
"""Stands for a time that a packet does not carry."""

_GUESSED_RATE_HZ = 25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """The packets of a video in decoding order; a packet's index here is its position.

    Times are integers in units of `time_base` seconds. A stream that carries none (raw H.264) has no clock: its time
    is the number of the frame.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    is_shown: NDArray[np.bool_]
    is_key: NDArray[np.bool_]
    start: int
    end: int
    time_base: Fraction
    has_clock: bool

    @property
    def frame_count(self) -> int:
        return int(self.is_shown.sum())

    @property
    def duration_seconds(self) -> float:
        return float((self.end - self.start) * self.time_base)

    def seconds(self, time: int) -> float:
        return float((time - self.start) * self.time_base)

    def span_centres(self, count: int) -> list[int]:
        """The centres of `count` equal spans of the duration, rounded down, which no frame's time can tell."""
        return [self.start + (2 * i + 1) * (self.end - self.start) // (2 * count) for i in range(count)]

    def position_at(self, time: int) -> int:
        """The position of the frame on screen at `time`: the last one shown that is not later."""
        eligible = np.flatnonzero(self.is_shown & (self.pts <= time))
        return int(eligible[np.argmax(self.pts[eligible])])

    def keyframe_before(self, position: int, steps_back: int = 0) -> int:
        """The keyframe that decoding must start from to get the frame at `position`, or an earlier one.

        A frame that follows a keyframe in the file but is shown before it belongs to the group before (open GOP).
        """
        earlier = slice(0, position + 1)
        keyframes = np.flatnonzero(self.is_key[earlier] & (self.pts[earlier] <= self.pts[position]))
        return int(keyframes[-1 - steps_back]) if len(keyframes) > steps_back else 0


def read_timeline(video: VideoFile) -> Timeline:
    """The timeline of a freshly opened video; reads the file to its end.

    Raises:
        VideoDecodeError: there is no frame in it.
    """
    pts, dts = array("q"), array("q")
    is_shown, is_key = bytearray(), bytearray()
    last, last_duration = NO_TIME, 0
    for packet in video.packets():
        time = NO_TIME if packet.pts is None else packet.pts
        pts.append(time)
        dts.append(NO_TIME if packet.dts is None else packet.dts)
        # Edit lists keep packets that are decoded and not shown.
        is_shown.append(time != NO_TIME and not packet.is_discard)
        is_key.append(time != NO_TIME and packet.is_keyframe)
        if is_shown[-1] and time > last:
            last, last_duration = time, packet.duration or 0
    # AVI carries decoding times only: with reordered frames (B-frames) they say nothing about the screen.
    is_reordered_avi = video.container.format.name == "avi" and video.stream.codec_context.has_b_frames
    if pts and (is_reordered_avi or 2 * pts.count(NO_TIME) >= len(pts)):
        return _count_frames(len(pts), _fraction(video.stream.guessed_rate) or Fraction(_GUESSED_RATE_HZ))
    if not any(is_shown):
        raise VideoDecodeError(f"{video.name} has a video stream without a frame; check that the file is complete")

    times = np.asarray(pts)
    shown = np.asarray(is_shown, dtype=np.bool_)
    start = int(times[shown].min())
    if not last_duration:
        last_duration = (last - start) // max(sum(is_shown) - 1, 1)
    return Timeline(
        pts=times,
        dts=np.asarray(dts),
        is_shown=shown,
        is_key=np.asarray(is_key, dtype=np.bool_),
        start=start,
        end=last + last_duration,
        time_base=_fraction(video.stream.time_base) or Fraction(1),
        has_clock=True,
    )


def _fraction(number: Fraction | None) -> Fraction | None:
    # PyAV 18 has fractions here, or None; 19 has a type of its own, or zero.
    return Fraction(number.numerator, number.denominator) if number else None


def _count_frames(count: int, rate_hz: Fraction) -> Timeline:
    return Timeline(
        pts=np.arange(count),
        dts=np.arange(count),
        is_shown=np.ones(count, np.bool_),
        is_key=np.zeros(count, np.bool_),
        start=0,
        end=count,
        time_base=1 / rate_hz,
        has_clock=False,
    )
