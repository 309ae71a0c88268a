"""The turn of each decoded frame: the bitstream's, which holds until its next coded sequence, else the container's."""

import math

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from diffvqa_rt.video.presentation import Orientation

_UPRIGHT = Orientation(0, False)


class TurnReader:
    """Follows the turns of one stream through its packets and its frames in the order in which they are shown.

    A decoded frame tells the angle of its matrix alone, which is ambiguous where that mirrors. So the matrix itself is
    read from H.264's keyframes; in other codecs a bitstream's mirroring is not seen.
    """

    def __init__(self, stream: VideoStream, declared: Orientation | None) -> None:
        self._declared = declared or _UPRIGHT
        self._held: Orientation | None = None
        self._by_position: dict[int, Orientation] = {}
        is_h264 = stream.codec_context.codec.canonical_name == "h264"
        self._filter = BitStreamFilterContext("h264_metadata=display_orientation=extract", stream) if is_h264 else None

    def forget(self) -> None:
        """Begins again at another place of the stream."""
        self._held = None

    def see_keyframe(self, packet: "Packet[VideoStream]", position: int) -> None:
        if self._filter is None:
            return
        try:
            # A copy: the filter takes what it is given.
            for filtered in self._filter.filter(Packet(bytes(packet))):
                if filtered.has_sidedata("display_matrix"):
                    matrix = np.frombuffer(bytes(filtered.get_sidedata("display_matrix")), np.int32)
                    self._by_position[position] = orientation_from_matrix(matrix.tolist())
        except av.FFmpegError:  # the decoder will say what is wrong with it
            self._filter.flush()

    def turn_of(self, frame: VideoFrame, position: int | None) -> Orientation:
        stated = self._by_position.pop(position, None) if position is not None else None
        angle = round(frame.rotation / 90) * 90 % 360
        if stated is None and angle != _angle(self._declared):
            stated = Orientation(-angle % 360, False)
        if stated is not None:
            self._held = stated
        elif frame.key_frame:
            self._held = None
        return self._held or self._declared


def orientation_from_matrix(matrix: list[int]) -> Orientation:
    """The orientation of a display matrix, nine numbers of libavutil's, to the nearest quarter turn."""
    # x' = a x + c y, y' = b x + d y, with y downwards
    a, b, c, d = (float(matrix[index]) for index in (0, 1, 3, 4))
    is_mirrored = a * d - b * c < 0
    turn = math.atan2(-b, -a) if is_mirrored else math.atan2(b, a)
    return Orientation(round(turn / (math.pi / 2)) * 90 % 360, is_mirrored)


def _angle(orientation: Orientation) -> int:
    """The counter-clockwise angle that libavutil reads from the orientation's matrix."""
    return ((180 if orientation.is_mirrored else 0) - orientation.rotation_degrees) % 360
