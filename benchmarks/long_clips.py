"""Clips of other sizes and lengths, made of the frames of a real one.

Keyframes stand where the encoder puts them by default: x264 has one every 250 frames where no scene changes, and none
changes here, since the frames go forth and back. That is the most that a reader has to decode for one frame.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, cycle, islice
from pathlib import Path

import av

RATE_HZ = 25
# One group of x264's default length, which is also a segment that plays behind itself.
SEGMENT_FRAMES = 250
SEGMENT_SECONDS = SEGMENT_FRAMES // RATE_HZ

_OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime", "row-mt": "1"},
}


def encode_segment(
    source: Path, target: Path, size: tuple[int, int], codec: str = "libx264", *, frames: int = SEGMENT_FRAMES
) -> Path:
    """Ten seconds (250 frames at 25 Hz) of the frames of `source`, `size` (width, height) in pixels, yuv420p BT.709.

    Args:
        source: any video with at least two frames.
        target: what to write; its suffix names the container.
        codec: `libx264`, or `libvpx-vp9`.
        frames: how many, if not those ten seconds.
    """
    with av.open(target, "w") as output:
        stream = output.add_stream(codec, rate=RATE_HZ, options=_OPTIONS[codec])
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        # Declared, so that nobody has to guess.
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        for index, frame in enumerate(islice(_forth_and_back(source), frames)):
            scaled = frame.reformat(*size, format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            scaled.pts, scaled.time_base = index, Fraction(1, RATE_HZ)
            output.mux(stream.encode(scaled))
        output.mux(stream.encode())
    return target


def _forth_and_back(source: Path) -> Iterator[av.VideoFrame]:
    with av.open(source) as container:
        frames = list(container.decode(video=0))
    # Without the ends, which would be shown twice.
    return cycle(chain(frames, frames[-2:0:-1]))


def play_again(segment: Path, target: Path, seconds: int) -> Path:
    """The packets of a segment, again and again, `seconds` long in all; nothing is encoded.

    Raises ValueError unless that is a whole number of segments.
    """
    if seconds < SEGMENT_SECONDS or seconds % SEGMENT_SECONDS:
        raise ValueError(f"seconds is {seconds}; expected a multiple of {SEGMENT_SECONDS}")
    with av.open(target, "w") as output:
        stream = None
        for repetition in range(seconds // SEGMENT_SECONDS):
            with av.open(segment) as source:
                video = source.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                shift = round(repetition * SEGMENT_SECONDS / video.time_base)
                for packet in source.demux(video):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        output.mux(packet)
    return target
