"""The turn of each decoded frame: the container's, else the bitstream's, which holds until its next coded sequence."""

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from diffvqa_rt.video.presentation import Orientation


class TurnReader:
    """Follows the turns of one stream through its packets and its frames in the order in which they are shown.

    A decoded frame tells the angle of its matrix alone, which is ambiguous where that mirrors. H.264's keyframes tell
    whether it does; in other codecs a bitstream's mirroring is not seen.
    """

    def __init__(self, stream: VideoStream, declared: Orientation | None) -> None:
        self._declared = declared
        self._held = Orientation(0, False)
        self._is_mirrored: dict[int, bool] = {}
        is_h264 = stream.codec_context.codec.canonical_name == "h264"
        self._filter = _h264_filter(stream) if is_h264 and declared is None else None

    def forget(self) -> None:
        """Begins again at another place of the stream."""
        self._held = Orientation(0, False)

    def see_keyframe(self, packet: "Packet[VideoStream]", position: int) -> None:
        """Looks for a turn in a packet that is about to be decoded."""
        if self._filter is None:
            return
        try:
            # A copy: the filter takes what it is given.
            for filtered in self._filter.filter(Packet(bytes(packet))):
                if filtered.has_sidedata("display_matrix"):
                    matrix = np.frombuffer(bytes(filtered.get_sidedata("display_matrix")), np.int32)
                    # Its angle is half of the message's (ffmpeg 8); the frame has the right one.
                    a, b, c, d = (float(matrix[index]) for index in (0, 1, 3, 4))
                    self._is_mirrored[position] = a * d - b * c < 0
        except av.FFmpegError:  # the decoder will say what is wrong with it
            self._filter.flush()

    def turn_of(self, frame: VideoFrame, position: int | None) -> Orientation:
        """The turn of the next frame; `position` is that of its packet."""
        if self._declared is not None:
            return self._declared
        is_mirrored = None if position is None else self._is_mirrored.pop(position, None)
        angle = round(frame.rotation / 90) * 90 % 360
        if angle or is_mirrored is not None or frame.key_frame:
            self._held = Orientation(((180 if is_mirrored else 0) - angle) % 360, bool(is_mirrored))
        return self._held


def _h264_filter(stream: VideoStream) -> BitStreamFilterContext | None:
    """The reader of the turns in a stream's packets; None where its headers are broken, and the decoder will say so."""
    try:
        return BitStreamFilterContext("h264_metadata=display_orientation=extract", stream)
    except av.FFmpegError:
        return None
