"""When each frame of a video is on screen, from its packets alone: nothing is decoded, no header is believed."""

import dataclasses
from array import array
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from av.codec import Codec
from av.format import Flags as FormatFlags
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from diffvqa_rt.errors import ScoreWarning, VideoDecodeError
from diffvqa_rt.video.clock import NO_TIME, Clock, Stamps, clock_from_stamps, display_times_from_dts
from diffvqa_rt.video.codecs import can_start_at_keyframes, is_header_packet
from diffvqa_rt.video.container import VideoFile

_GUESSED_RATE_HZ = 25
# Formats that store decoding times; libavformat guesses those of the others.
_STORE_DTS = ("mpegts", "mpeg", "mov,mp4,m4a,3gp,3g2,mj2", "flv", "mxf")
# No decoder holds back more frames than these.
_LONGEST_DELAY = 33


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """The packets of a video in decoding order; a packet's index here is its position.

    Times are integers in units of `time_base` seconds. A stream that carries none (raw H.264), or times of decoding
    alone (AVI with B-frames), has no clock of its own: there the k-th frame that the decoder gives has the k-th of
    `order`.

    Attributes:
        pts: when each packet's frame is shown.
        is_known: false where the container does not say so: the frame follows its predecessor in `order`.
        order: the times of all frames that are shown, ascending.
        is_shown: false for packets that are decoded and not shown, and for headers.
        is_key: where decoding can start.
        carries_state: packets with what later ones need (a palette, new headers): decoding must pass through all.
        start, end: of the video.
        has_clock: whether a frame's packet tells its time.
        is_seekable: whether the container's own times lead to its packets, and to nothing else.
        marks: what tells each packet from the others: its stored times, place and size.
        joins: positions at which another recording begins.
        warnings: what was mended.
    """

    pts: NDArray[np.int64]
    is_known: NDArray[np.bool_]
    order: NDArray[np.int64]
    is_shown: NDArray[np.bool_]
    is_key: NDArray[np.bool_]
    carries_state: NDArray[np.bool_]
    start: int
    end: int
    time_base: Fraction
    has_clock: bool
    is_seekable: bool
    marks: NDArray[np.int64]
    joins: frozenset[int] = field(default=frozenset())
    warnings: tuple[ScoreWarning, ...] = field(default=())

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

    def is_header(self, position: int) -> bool:
        """True where the packet at `position` holds headers and no frame."""
        return bool(self.carries_state[position] and not self.is_shown[position])

    def without_keyframe(self, position: int) -> "Timeline":
        """The same timeline, on which decoding does not start at `position`."""
        return dataclasses.replace(self, is_key=self.is_key & (np.arange(len(self.is_key)) != position))

    def time_after(self, time: int | None) -> int:
        """The time of the frame that is shown after the one of `time`, or of the first."""
        place = 0 if time is None else int(np.searchsorted(self.order, time, side="right"))
        return int(self.order[min(place, len(self.order) - 1)])


def read_timeline(video: VideoFile) -> Timeline:
    """The timeline of a freshly opened video; reads the file to its end.

    Raises:
        VideoDecodeError: there is no frame in it, or it is encrypted.
    """
    pts, dts, durations = array("q"), array("q"), array("q")
    places, sizes = array("q"), array("q")
    is_shown, is_key, carries_state = bytearray(), bytearray(), bytearray()
    codec = video.stream.codec_context.codec
    first: list[Packet[VideoStream]] = []
    for packet in video.packets():
        if packet.has_sidedata("encryption_info"):
            raise VideoDecodeError(f"{video.name} is encrypted; decrypt it first")
        is_header = is_header_packet(codec.canonical_name, packet)
        pts.append(NO_TIME if packet.pts is None else packet.pts)
        dts.append(NO_TIME if packet.dts is None else packet.dts)
        durations.append(packet.duration or 0)
        places.append(-1 if packet.pos is None else packet.pos)
        sizes.append(packet.size)
        # Edit lists keep packets that are decoded and not shown.
        is_shown.append(not packet.is_discard and not is_header)
        is_key.append(packet.is_keyframe and not is_header)
        carries_state.append(is_header or packet.has_sidedata("palette") or packet.has_sidedata("new_extradata"))
        if len(first) < _LONGEST_DELAY:
            first.append(packet)
    if not any(is_shown):
        raise VideoDecodeError(f"{video.name} has a video stream without a frame; check that the file is complete")
    time_base = _fraction(video.stream.time_base) or Fraction(1)
    stamps = Stamps(
        pts=np.asarray(pts),
        dts=np.asarray(dts),
        durations=np.asarray(durations),
        is_shown=np.asarray(is_shown, dtype=np.bool_),
        is_key=np.asarray(is_key, dtype=np.bool_),
        unit_seconds=float(time_base),
        is_dts_stored=video.container.format.name in _STORE_DTS,
        may_leap=FormatFlags.ts_discont in FormatFlags(video.container.format.flags),
    )
    # AVI stores times of decoding alone, and what libavformat makes of those is a guess.
    is_avi = video.container.format.name == "avi"
    is_reordered_avi = is_avi and video.stream.codec_context.has_b_frames
    if is_avi and not is_reordered_avi:
        stamps = dataclasses.replace(stamps, pts=stamps.dts)
    clock = None if is_reordered_avi else clock_from_stamps(stamps)
    state = np.asarray(carries_state, dtype=np.bool_)
    marks = np.stack([np.asarray(pts), stamps.dts, np.asarray(places), np.asarray(sizes)], axis=-1)
    if clock is None:
        order = _order_in_avi(video, first, stamps) if is_reordered_avi else None
        rate_hz = _fraction(video.stream.guessed_rate) or Fraction(_GUESSED_RATE_HZ)
        return _without_clock(stamps, state, marks, 1 / rate_hz if order is None else time_base, order, codec)
    is_reachable = can_start_at_keyframes(codec)
    return Timeline(
        pts=clock.times,
        is_known=clock.is_known,
        order=np.sort(clock.times[stamps.is_shown]),
        is_shown=stamps.is_shown,
        is_key=stamps.is_key & clock.is_known & is_reachable,
        carries_state=state,
        start=clock.start,
        end=clock.end,
        time_base=time_base,
        has_clock=True,
        is_seekable=is_reachable and not clock.is_mended and not state.any(),
        marks=marks,
        joins=frozenset(clock.restarts),
        warnings=_warnings(clock),
    )


def _without_clock(
    stamps: Stamps,
    state: NDArray[np.bool_],
    marks: NDArray[np.int64],
    time_base: Fraction,
    order: NDArray[np.int64] | None,
    codec: Codec,
) -> Timeline:
    """Frames in the order in which the decoder gives them, at the times of `order`, or counted at the stream's rate."""
    count = len(stamps.pts)
    shown = np.flatnonzero(stamps.is_shown)
    is_counted = order is None
    if order is None:
        order = np.arange(len(shown))
    pts = np.zeros(count, np.int64)
    pts[shown] = order
    has_times = is_counted and bool((stamps.pts != NO_TIME).any())
    return Timeline(
        pts=pts,
        is_known=stamps.is_shown,
        order=order,
        is_shown=stamps.is_shown,
        # Without reordering a packet's place is its frame's.
        is_key=stamps.is_key if codec.intra_only else np.zeros(count, np.bool_),
        carries_state=state,
        start=int(order[0]),
        end=int(order[-1]) + 1,
        time_base=time_base,
        has_clock=codec.intra_only,
        is_seekable=False,
        marks=marks,
        warnings=(_warning(f"its times stand still; its frames were counted, at {float(1 / time_base):g} Hz"),)
        if has_times
        else (),
    )


def _order_in_avi(video: VideoFile, first: "list[Packet[VideoStream]]", stamps: Stamps) -> NDArray[np.int64] | None:
    """The times of display in an AVI whose frames are reordered, from decoding times and the decoder's delay."""
    if (stamps.dts[stamps.is_shown] == NO_TIME).any():
        return None
    fed = 0
    for packet in first:
        fed += 1
        try:
            if video.stream.codec_context.decode(packet):
                break
        except av.FFmpegError:
            fed -= 1
    return display_times_from_dts(stamps.dts[stamps.is_shown], max(fed - 1, 0))


def _warnings(clock: Clock) -> tuple[ScoreWarning, ...]:
    mended = [
        (
            len(clock.restarts),
            "its times start again or leap at {} places; what follows was put behind what came before",
        ),
        (clock.strays, "{} of its frames have a time far from their neighbours'; they were put where they belong"),
        (clock.missing, "{} of its frames have no time; they were put between their neighbours"),
    ]
    return tuple(_warning(sentence.format(f"{count:,}")) for count, sentence in mended if count)


def _warning(sentence: str) -> ScoreWarning:
    return ScoreWarning("times-mended", sentence)


def _fraction(number: Fraction | None) -> Fraction | None:
    # PyAV 18 has fractions here, or None; 19 has a type of its own, or zero.
    return Fraction(number.numerator, number.denominator) if number else None
