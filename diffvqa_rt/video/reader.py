"""Decoding one video stream from a chosen keyframe on."""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import BinaryIO

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from diffvqa_rt.video.codecs import hides_consequences, is_intact, makes_up_references, tells_keyframes
from diffvqa_rt.video.container import VideoFile, open_video
from diffvqa_rt.video.orientation import TurnReader
from diffvqa_rt.video.presentation import Orientation
from diffvqa_rt.video.timeline import NO_TIME, Timeline


class FalseKeyframeError(Exception):
    """Decoding started at what the container calls a keyframe, and it is none, or is damaged."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class SeekMissedError(Exception):
    """A seek does not lead to the packets that the container showed before."""


@dataclass(frozen=True, slots=True, eq=False)
class TimedFrame:
    """A decoded frame, its time on the video's timeline, and how it is turned."""

    time: int
    frame: VideoFrame
    turn: Orientation


# Before a wanted frame this many packets are decoded in full: interlaced pictures come as two.
_PACKETS_IN_FULL = 8
_BEGINNING = -1


class FrameReader:
    """Good frames in order of time, as many at once as the decoder gives. A context manager.

    Attributes:
        video: the open file.
        position: of the packet that is decoded next, as in `Timeline`.
        leaps: whether it leaves out frames on the way.
        before: the good frame before the one that `last_until` gave; None where decoding began between them.
        decoded_frames: how many frames the decoder gave, corrupt ones included.
        passed_over: how many of them came before any keyframe.
    """

    video: VideoFile

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        timeline: Timeline,
        *,
        may_leap: bool,
        needs_keyframe: bool,
        may_seek: bool = True,
        threads: int = 1,
    ) -> None:
        """Reads the video in `file` from its start.

        Args:
            name: what messages call it.
            file: the video.
            timeline: of the same file.
            may_leap: leave out frames that no other frame refers to, on the way to a wanted one. H.264 only: in its
                successors, such frames of one temporal layer may be referred to by the next layer.
            needs_keyframe: pass over frames that the decoder gives before the first keyframe, if it makes up what
                they refer to.
            may_seek: ask the container for the way to a keyframe, in place of reading all that lies before it.
            threads: of the decoder, as in `open_video`. With several it gives the frames of a sound video later.
        """
        self.decoded_frames = self.passed_over = 0
        self._name, self._file, self._threads = name, file, threads
        self._timeline = timeline
        self._corrupt: set[tuple[str, int | None]] = set()
        self._needs_keyframe = needs_keyframe
        self._is_seekable = may_seek and timeline.is_seekable
        self._has_sought = False
        self._stack = ExitStack()
        self._open()
        self.leaps = may_leap and self._codec.canonical_name == "h264" and timeline.has_clock

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Frames keep the decoder alive that gave them.
        self._start(0, iter(()))
        self._stack.close()

    @property
    def corrupt_frames(self) -> int:
        """The number of frames that did not decode, or only with errors; once each, however often they were met."""
        return len(self._corrupt)

    def _open(self) -> None:
        self._stack.close()
        self.video = self._stack.enter_context(open_video(self._name, self._file, threads=self._threads))
        self._codec = self.video.stream.codec_context.codec
        self._turns = TurnReader(self.video.stream, self.video.presentation.orientation)
        self._given = 0
        self._start(0, self.video.packets())

    def _start(self, position: int, packets: "Iterator[Packet[VideoStream]]") -> None:
        self.position = self._started_at = position
        self._packets = packets
        self._is_at_end = False
        self._has_keyframe = not (self._needs_keyframe and makes_up_references(self._codec))
        # Where decoding starts on the way, the frame of that place must come before any that is shown later.
        self._is_start_proven = not position or self._codec.intra_only
        self._is_past_flag = False
        self._damaged: set[int] = set()
        self._last_time: int | None = None
        self._current: TimedFrame | None = None
        self.before: TimedFrame | None = None
        self._ahead: deque[TimedFrame] = deque()
        self._turns.forget()

    def go_to(self, position: int) -> None:
        """Makes the keyframe at `position` the next packet to decode. Raises SeekMissedError."""
        if self._is_seekable:
            return self._seek(position)
        if position < self.position:
            self._open()
        context = self.video.stream.codec_context
        context.flush_buffers()
        while self.position < position and (packet := next(self._packets, None)) is not None:
            if self._timeline.carries_state[self.position]:
                self._decode(packet)
            self.position += 1
        return self._start(position, self._packets)

    def _seek(self, position: int) -> None:
        time, decoding_time = (int(stored) for stored in self._timeline.marks[position, :2])
        try:
            offset = time if decoding_time == NO_TIME else decoding_time
            self.video.container.seek(offset, stream=self.video.stream)
        except av.FFmpegError as error:
            raise SeekMissedError from error
        self._has_sought = True
        packets = self.video.packets()
        for packet in packets:
            # Containers go to a keyframe or to any packet before the one asked for; reading on costs little.
            if self._is_at(packet, position):
                return self._start(position, chain([packet], packets))
            if packet.is_keyframe and packet.pts is not None and packet.pts > time:
                break
        raise SeekMissedError

    def _is_at(self, packet: "Packet[VideoStream]", position: int) -> bool:
        """True where it is the packet of that position, by what the container says of it."""
        if position >= len(self._timeline.marks):
            return False
        pts, dts, place, size = self._timeline.marks[position].tolist()
        stored = (NO_TIME if packet.pts is None else packet.pts, NO_TIME if packet.dts is None else packet.dts)
        # A parser that begins elsewhere may have guessed another decoding time.
        return stored[0] == pts and packet.size == size and (stored[1] == dts or (packet.pos or _BEGINNING) == place)

    def last_until(self, time: int) -> TimedFrame | None:
        """The last good frame not later than `time`, None if there is none since the start. Decodes one further."""
        wanted_position = self._timeline.position_at(time)
        while (ahead := self.first_after(wanted_position)) is not None and ahead.time <= time:
            self.before, self._current = self._current, self._ahead.popleft()
        return self._current

    def first_after(self, wanted_position: int = 0) -> TimedFrame | None:
        """The good frame after those that `last_until` went through, None at the end of the video."""
        while not self._ahead and not self._is_at_end:
            self._decode_next(wanted_position)
        return self._ahead[0] if self._ahead else None

    def _decode_next(self, wanted_position: int) -> None:
        packet = next(self._packets, None)
        self._is_at_end = packet is None
        position, self.position = self.position, self.position + (not self._is_at_end)
        is_far = wanted_position - position > _PACKETS_IN_FULL
        self.video.stream.codec_context.skip_frame = "NONREF" if self.leaps and is_far else "DEFAULT"
        if packet is not None:
            if self._has_sought and not self._is_at(packet, position):
                raise SeekMissedError
            if packet.is_keyframe:
                self._is_past_flag = True
                self._turns.see_keyframe(packet, position)
            # libavformat's parsers put the mark of lost data on the packet before. Where another recording begins,
            # transport packets are numbered anew, and none was lost.
            if packet.is_corrupt and self._timeline.joins.isdisjoint((position + 1, position + 2)):
                self._note_damage(position, position + 1)
            # A decoder hands a packet's time through to its frame: so a frame says which packet it is from.
            packet.pts = position
        frames = self._decode(packet) if packet is None or is_intact(self._codec, packet) else None
        # libavcodec takes the headers of a second stream, and calls some of them an error all the same.
        if frames is None and not (packet is not None and self._timeline.is_header(position)):
            if not self._is_start_proven and position == self._started_at:
                raise FalseKeyframeError(position)
            self._corrupt.add(("packet", position))
            self._note_damage(position)
        for frame in frames or ():
            self._take(frame)

    def _decode(self, packet: "Packet[VideoStream] | None") -> list[VideoFrame] | None:
        """None where the packet does not decode. Without a packet, the frames that the decoder still holds."""
        try:
            return self.video.stream.codec_context.decode(packet)
        except av.FFmpegError:
            return None

    def _take(self, frame: VideoFrame) -> None:
        position = frame.pts
        if position is not None and not self._started_at <= position < len(self._timeline.pts):
            return
        self.decoded_frames += 1
        turn = self._turns.turn_of(frame, position)
        time = self._time_of(position)
        if time is None:
            return
        if not self._is_start_proven:
            self._is_start_proven = position == self._started_at
            if not self._is_start_proven and time > self._timeline.pts[self._started_at]:
                raise FalseKeyframeError(self._started_at)
        is_key = frame.key_frame if tells_keyframes(self._codec) else self._is_past_flag
        if not self._has_keyframe and not is_key:
            if self._started_at:
                raise FalseKeyframeError(self._started_at)
            self.passed_over += 1
            self._corrupt.add(("frame", time))
            return
        self._has_keyframe = True
        if frame.is_corrupt:
            self._note_damage(position)
        elif frame.key_frame and position is not None and position not in self._damaged:
            # What is damaged before it matters no more; what comes after it has perhaps been read already.
            self._damaged = {damaged for damaged in self._damaged if damaged > position}
        if frame.is_corrupt or any(position is None or damaged <= position for damaged in self._damaged):
            self._corrupt.add(("frame", time))
        else:
            self._ahead.append(TimedFrame(time, frame, turn))

    def _note_damage(self, *positions: int | None) -> None:
        """Frames from these on are not to be believed until a sound keyframe, if the decoder does not say so itself."""
        if hides_consequences(self._codec):
            self._damaged.update(position for position in positions if position is not None)

    def _time_of(self, position: int | None) -> int | None:
        timeline = self._timeline
        if not timeline.has_clock:
            self._given += 1
            return int(timeline.order[min(self._given, len(timeline.order)) - 1])
        if position is None or not timeline.is_shown[position]:
            return None
        is_known = timeline.is_known[position]
        self._last_time = int(timeline.pts[position]) if is_known else timeline.time_after(self._last_time)
        return self._last_time
