"""Clips of the synthetic set as files: encoded by one thread, which gives the same bytes every time, and decoded."""

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from diffvqa_rt.errors import SyntheticSetError, VideoDecodeError
from diffvqa_rt.files import write_whole
from diffvqa_rt.video.color import picture_from_frame
from diffvqa_rt.video.container import open_source, open_video

RgbClip = NDArray[np.uint8]
"""[T, H, W, 3], RGB from 0 to 255."""

# swscale's and ISO/IEC 23091-2's codes of BT.601, the matrix that players take for a picture this small.
_SWSCALE_BT601, _BT601 = 5, 6
_SWSCALE_FLAGS = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """An encoder, with what makes it quick on one thread; `is_crf_whole` if its rate factor has no fractions."""

    encoder: str
    options: dict[str, str]
    is_crf_whole: bool


# On a processor with AVX-512, libx264 as in PyAV 18.1 decides by memory that it has not written: with mbtree and
# B-frames, the same frames gave three results in 60 encodes. By SSE2 they gave one, that of its C code, for 5 % more.
_X264 = {"threads": "1", "x264-params": "asm=MMX2,SSE2"}

CODECS = {
    "h264": Codec(encoder="libx264", options={"preset": "fast", **_X264}, is_crf_whole=False),
    "h265": Codec(
        encoder="libx265",
        options={"preset": "fast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
        is_crf_whole=False,
    ),
    "av1": Codec(encoder="libsvtav1", options={"preset": "8", "svtav1-params": "lp=1"}, is_crf_whole=True),
    "vp9": Codec(
        encoder="libvpx-vp9", options={"deadline": "good", "cpu-used": "4", "b": "0", "row-mt": "0"}, is_crf_whole=True
    ),
}

# For clips whose distortion is not a codec's. At this rate VMAF is 1.6 under lossless storage's on a clean clip and
# within 0.6 of it under noise, for a quarter of the bytes; and it is measured on the file, so the label tells of this
# loss too.
_STORAGE = Codec(encoder="libx264", options={"preset": "veryfast", **_X264}, is_crf_whole=False)
STORAGE_CRF = 12.0
REFERENCE_CRF = 5.0


def write_clip(
    path: Path, frames: RgbClip, frame_rate_hz: Fraction, *, codec: str | None = None, crf: float = STORAGE_CRF
) -> None:
    """Writes an MP4 file, yuv420p BT.601, or nothing.

    Args:
        codec: one of `CODECS`; near-lossless H.264 that decodes quickly if not given.
        crf: the encoder's constant rate factor.

    Raises:
        SyntheticSetError: the encoder is missing from this build of PyAV, or refuses.
        FileWriteError: the file cannot be written.
    """
    chosen = _STORAGE if codec is None else CODECS[codec]
    try:
        content = _encode(frames, frame_rate_hz, chosen, crf)
    except (av.FFmpegError, ValueError) as error:
        raise SyntheticSetError(f"{path.name} cannot be encoded by {chosen.encoder} ({error})") from error
    write_whole(path, lambda part: part.write_bytes(content))


def _encode(frames: RgbClip, frame_rate_hz: Fraction, codec: Codec, crf: float) -> bytes:
    options = codec.options | {"crf": str(round(crf)) if codec.is_crf_whole else f"{crf:.3f}"}
    file = io.BytesIO()
    with av.open(file, "w", "mp4") as output:
        stream = output.add_stream(codec.encoder, rate=frame_rate_hz, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = _BT601
        stream.codec_context.color_range = ColorRange.MPEG
        real_time = _real_time_threads()
        output.start_encoding()
        # SVT-AV1, run by root, makes its threads and this one real-time ones: they, and VMAF's ffmpeg, which inherits
        # that, would leave a twentieth of the machine to all others.
        for thread in _real_time_threads() - real_time:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
                format="yuv420p",
                dst_colorspace=_SWSCALE_BT601,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                interpolation=_SWSCALE_FLAGS,
                threads=1,
            )
            frame.pts, frame.time_base = index, 1 / Fraction(frame_rate_hz)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def recode(frames: RgbClip, codec: str, crf: float) -> RgbClip:
    """The frames as they come out of one of `CODECS` at a constant rate factor, 24 a second.

    Raises:
        SyntheticSetError: as `write_clip`.
    """
    try:
        return _frames_of(_encode(frames, Fraction(24), CODECS[codec], crf))
    except (av.FFmpegError, ValueError) as error:
        raise SyntheticSetError(f"a clip cannot be encoded by {CODECS[codec].encoder} ({error})") from error


def _real_time_threads() -> set[int]:
    """This process's real-time threads, by number; none where a system has no list of them."""
    found = set[int]()
    if sys.platform == "linux":
        for thread in map(int, os.listdir("/proc/self/task")):
            # One that ends meanwhile is no matter.
            with contextlib.suppress(ProcessLookupError):
                if os.sched_getscheduler(thread) == os.SCHED_FIFO:
                    found.add(thread)
    return found


def read_clip(path: Path) -> RgbClip:
    """All frames of a clip.

    Raises:
        VideoDecodeError: it cannot be read, or not all of it: libav skips what is damaged.
    """
    return _frames_of(path)


def _frames_of(source: Path | bytes) -> RgbClip:
    with open_source(source) as (name, file), open_video(name, file) as video:
        try:
            pictures, damaged = [], 0
            for frame in video.container.decode(video.stream):
                damaged += frame.is_corrupt
                pictures.append(picture_from_frame(frame, name, video.presentation).pixels)
        except av.FFmpegError as error:
            raise VideoDecodeError(f"{name} cannot be decoded ({error.strerror}); make it again") from error
        # An MP4 file says how many it has; other containers do not.
        expected = video.stream.frames or len(pictures)
    if not pictures or len(pictures) != expected:
        raise VideoDecodeError(f"{name} has {len(pictures)} frames that decode, of {expected}; make it again")
    if damaged:
        raise VideoDecodeError(f"{name} has {damaged} damaged frames; make it again")
    return np.stack(pictures)
