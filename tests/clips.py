"""Small encoded videos, made with PyAV when a test asks for them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from av.container import OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

# What an encoder needs to be quick and silent.
_ENCODER_OPTIONS = {
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:pools=1"},
    "libvpx": {"cpu-used": "8"},
    "libvpx-vp9": {"cpu-used": "8", "row-mt": "0"},
}


def moving_picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Frame `index` of a test video, [H, W, 3] uint8 RGB: gradients that slide, under a colour that changes."""
    y, x = np.mgrid[:height, :width]
    red, green = (2 * x + 5 * index) % 256, (3 * y + 9 * index) % 256
    return np.stack([red, green, np.full_like(x, (40 + 23 * index) % 256)], axis=-1).astype(np.uint8)


def painting(seed: int, width: int, height: int) -> Image.Image:
    """Noise at every scale, as pictures have, and a few hard edges."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for side in (4, 12, 40, 120, 400):
        noise = Image.fromarray(generator.integers(0, 255, (side * height // width + 2, side, 3), np.uint8))
        total += (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) - 128.0) * (4 / side) ** 0.4
    for _ in range(12):
        x, y = generator.integers(0, width - 50), generator.integers(0, height - 50)
        total[y : y + 50, x : x + 50] += generator.integers(-90, 90)
    return Image.fromarray(np.clip(128 + total * 0.7, 0, 255).astype(np.uint8))


def make_clip(
    codec: str = "libx264",
    container: str = "mp4",
    *,
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    frames: int = 24,
    times_ms: Sequence[int] | None = None,
    gop: int = 8,
    b_frames: int | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    color: dict[str, int] | None = None,
    orientation: tuple[int, bool] | None = None,
    planes: Sequence[NDArray[np.integer]] | None = None,
    has_audio: bool = False,
) -> bytes:
    """An encoded video.

    Args:
        size: width and height, pixels.
        times_ms: when each frame is shown; 25 Hz from 0 if not given.
        color: fields of the codec context (`colorspace`, `color_range`, `color_trc`) in ISO/IEC 23091-2 codes.
        orientation: degrees counter-clockwise, and whether to mirror left to right after that.
        planes: the samples of each plane, the same in all frames, instead of a moving picture.
    """
    with TemporaryDirectory() as folder:
        # A named file, since MP4's `faststart` opens it again.
        path = Path(folder, "clip")
        with av.open(path, "w", container, container_options=container_options) as output:
            stream = output.add_stream(codec, rate=25, options=_ENCODER_OPTIONS.get(codec, {}) | (options or {}))
            stream.width, stream.height = size
            stream.pix_fmt = pixel_format
            stream.codec_context.gop_size = gop
            stream.codec_context.time_base = Fraction(1, 1000) if times_ms else Fraction(1, 25)
            if b_frames is not None:
                stream.codec_context.max_b_frames = b_frames
            for field, code in (color or {}).items():
                setattr(stream.codec_context, field, code)
            if orientation:
                stream.set_display_rotation(orientation[0], hflip=orientation[1])
            if has_audio:
                _add_silence(output, seconds=1)
            for index in range(frames):
                frame = _moving_frame(index, stream) if planes is None else _still_frame(planes, stream)
                frame.pts = times_ms[index] if times_ms else index
                frame.time_base = stream.codec_context.time_base
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return path.read_bytes()


def make_audio(has_cover: bool) -> bytes:
    """A second of silence in an MP4 file, with or without a picture of its cover."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "sound")
        with av.open(path, "w", "mp4") as output:
            if has_cover:
                cover = output.add_stream("mjpeg", rate=1, width=64, height=48, pix_fmt="yuvj420p")
                cover.disposition = Disposition.attached_pic
            _add_silence(output, seconds=1)
            if has_cover:
                output.mux(cover.encode(_moving_frame(0, cover)))
                output.mux(cover.encode())
        return path.read_bytes()


def _moving_frame(index: int, stream: VideoStream) -> av.VideoFrame:
    rgb = av.VideoFrame.from_ndarray(moving_picture(index, stream.width, stream.height), "rgb24")
    return rgb.reformat(format=stream.pix_fmt)


def _still_frame(planes: Sequence[NDArray[np.integer]], stream: VideoStream) -> av.VideoFrame:
    frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // samples.itemsize), samples.dtype)
        rows[:, : samples.shape[1]] = samples
        plane.update(rows)
    return frame


def _add_silence(output: OutputContainer, seconds: int) -> None:
    stream = output.add_stream("aac", rate=8000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * seconds), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 8000
    output.mux(stream.encode(frame))
    output.mux(stream.encode())
