"""Decoding one video stream from a chosen keyframe on."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from diffvqa_rt.video.container import VideoFile
from diffvqa_rt.video.timeline import NO_TIME, Timeline


class SeekMissedError(Exception):
    """The container does not lead to a keyframe that its own packets showed."""


@dataclass(frozen=True, slots=True, eq=False)
class TimedFrame:
    """A decoded frame and its time on the video's timeline."""

    time: int
    frame: VideoFrame


# Before a wanted frame this many packets are decoded in full: interlaced pictures come as two.
_PACKETS_IN_FULL = 8


class FrameReader:
    """Good frames in order of time, as many at once as the decoder gives.

    Attributes:
        position: of the packet that is decoded next, as in `Timeline`.
        leaps: whether it leaves out frames on the way.
        decoded_frames: how many frames the decoder gave, corrupt ones included.
    """

    def __init__(self, video: VideoFile, timeline: Timeline, *, may_leap: bool) -> None:
        """Reads from the start of a freshly opened video.

        If `may_leap`, frames that no other frame refers to are left out on the way to a wanted one. H.264 only: in its
        successors, such frames of one temporal layer may be referred to by the next layer.
        """
        self.decoded_frames = 0
        self._corrupt: set[tuple[str, int | None]] = set()
        self._video = video
        self._timeline = timeline
        is_h264 = video.stream.codec_context.codec.canonical_name == "h264"
        self.leaps = may_leap and is_h264 and timeline.has_clock
        self._start(0, video.packets())

    @property
    def corrupt_frames(self) -> int:
        """How many frames did not decode, or only with errors; once each, however often they were met."""
        return len(self._corrupt)

    def _start(self, position: int, packets: "Iterator[Packet[VideoStream]]") -> None:
        self.position = position
        self._packets = packets
        self._is_at_end = False
        self._current: TimedFrame | None = None
        self._ahead: deque[TimedFrame] = deque()

    def seek(self, position: int) -> None:
        """Makes the keyframe at `position` the next packet to decode.

        Raises:
            SeekMissedError: the container goes elsewhere; what is read next is then undefined.
        """
        time, decoding_time = int(self._timeline.pts[position]), int(self._timeline.dts[position])
        offset = time if decoding_time == NO_TIME else decoding_time
        try:
            self._video.container.seek(offset, stream=self._video.stream)
        except av.FFmpegError as error:
            raise SeekMissedError from error
        packets = self._video.packets()
        for packet in packets:
            found = NO_TIME if packet.pts is None else packet.pts
            # Containers go to a keyframe or to any packet before the one asked for; reading on costs little.
            if found == time:
                return self._start(position, chain([packet], packets))
            if packet.is_keyframe and found > time:
                break
        raise SeekMissedError

    def last_until(self, time: int) -> TimedFrame | None:
        """The last good frame not later than `time`, None if there is none since the seek. Decodes one further."""
        wanted_position = self._timeline.position_at(time)
        while (ahead := self.first_after(wanted_position)) is not None and ahead.time <= time:
            self._current = self._ahead.popleft()
        return self._current

    def first_after(self, wanted_position: int = 0) -> TimedFrame | None:
        """The good frame after those that `last_until` went through, None at the end of the video."""
        while not self._ahead and not self._is_at_end:
            self._decode_packet(wanted_position)
        return self._ahead[0] if self._ahead else None

    def _decode_packet(self, wanted_position: int) -> None:
        packet = next(self._packets, None)
        self._is_at_end = packet is None
        position, self.position = self.position, self.position + (not self._is_at_end)
        context = self._video.stream.codec_context
        is_far = wanted_position - position > _PACKETS_IN_FULL
        context.skip_frame = "NONREF" if self.leaps and is_far else "DEFAULT"
        try:
            # No packet makes the decoder give out the frames that it still holds.
            frames = context.decode(packet)
        except av.FFmpegError:
            self._corrupt.add(("packet", position))
            return
        for frame in frames:
            time = frame.pts if self._timeline.has_clock else self.decoded_frames
            self.decoded_frames += 1
            if frame.is_corrupt:
                self._corrupt.add(("frame", time))
            elif time is not None:
                self._ahead.append(TimedFrame(time, frame))
