"""Threads of a video's decoder: as many as pay, and no more than there is memory for."""

from av.video.codeccontext import VideoCodecContext

# What is damaged of these is reported, or decodes to the same. Not VP8: its decoder reports nothing, and of 398 damaged
# files, some 45 of them VP8, seven had other frames with threads, and all seven were VP8.
_CODECS = {"h264", "hevc", "vp9", "av1"}
# Of all frames together. One thread decodes fewer in some 40 ms (two Xeon cores), and threads have to be started.
_LEAST_PIXELS = 1 << 24
# A thread holds a frame of its own.
_MOST_BYTES = 256 << 20
# Planes of 10 bits and half the colours, which are kept in 16.
_BYTES_A_PIXEL = 3
_MOST_THREADS = 8


def decoding_threads(context: VideoCodecContext, frames: int, most: int) -> int:
    """The threads for a decoder of a video of so many frames, at most `most`; 1 where more would not pay."""
    pixels = max(1, context.width * context.height)
    if context.codec.canonical_name not in _CODECS or frames * pixels < _LEAST_PIXELS:
        return 1
    return max(1, min(most, _MOST_THREADS, frames, _MOST_BYTES // (_BYTES_A_PIXEL * pixels)))
