"""Threads that decode a video and convert its pictures: as many as pay, and no more than there is memory for."""

from collections.abc import Callable
from dataclasses import dataclass

from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

# With threads, damaged files of these have the frames of one thread, or an error is reported (1,100 files of 320×240).
# Not so of HEVC and VP8: where a damaged picture ends early, the rest is what stood in its memory, and nobody says so.
_CODECS = {"h264", "vp9", "av1"}
# Of all frames together. One thread decodes fewer in some 40 ms (two Xeon cores), and threads have to be started.
_LEAST_PIXELS = 1 << 24
# A thread holds a frame of its own.
_MOST_BYTES = 256 << 20
# Planes of 10 bits and half the colours, which are kept in 16.
_BYTES_A_PIXEL = 3
_MOST_THREADS = 8
# Of a picture whose colours one thread converts in some 4 ms.
_LEAST_PICTURE_PIXELS = 1 << 18


@dataclass(frozen=True, slots=True)
class DecoderThreads:
    """The threads that a decoder may have.

    Attributes:
        most: of them.
        has_complained: whether ffmpeg's libraries wrote of an error since the last time that this was asked. Of some
            damage that concerns threads they say nothing else.
    """

    most: int
    has_complained: Callable[[], bool]

    def for_video(self, context: VideoCodecContext, frames: int) -> int:
        """The threads for a decoder of a video of so many frames; 1 where more would not pay."""
        pixels = max(1, context.width * context.height)
        if context.codec.canonical_name not in _CODECS or frames * pixels < _LEAST_PIXELS:
            return 1
        return max(1, min(self.most, _MOST_THREADS, frames, _MOST_BYTES // (_BYTES_A_PIXEL * pixels)))

    def for_picture(self, frame: VideoFrame) -> int:
        """The threads that convert a frame's colours."""
        return min(self.most, _MOST_THREADS) if frame.width * frame.height >= _LEAST_PICTURE_PIXELS else 1


ONE_THREAD = DecoderThreads(1, lambda: False)
"""The threads where nobody listens to ffmpeg's libraries."""
