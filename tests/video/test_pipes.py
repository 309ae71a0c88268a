"""A video through a pipe: what is kept of it, and what is refused."""

import os
import subprocess
import tempfile
import threading
from contextlib import contextmanager

import imageio_ffmpeg
import numpy as np
import pytest
from clips import make_clip

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video import pipes, sample_frames
from diffvqa_rt.video.container import OpenFile
from diffvqa_rt.video.pipes import PipeLimits, spooled


@contextmanager
def pipe_of(content: bytes, *, ends: bool = True):
    """A pipe into which a thread writes `content`, and that it closes then, if it `ends`."""
    reading, writing = os.pipe()

    def write():
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(writing, rest) :]
        except BrokenPipeError:
            pass
        if ends:
            os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as file:
        yield file
    thread.join()
    if not ends:
        os.close(writing)


def yuv4mpeg(video: bytes, pixel_format: str = "yuv444p") -> bytes:
    """What `ffmpeg … -f yuv4mpegpipe -` writes of an encoded video."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", "pipe:0", "-pix_fmt", pixel_format]
    command += ["-strict", "-1", "-f", "yuv4mpegpipe", "-"]
    return subprocess.run(command, input=video, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def lossless() -> bytes:
    # 4:4:4, since ffmpeg calls undeclared places of chroma those of JPEG in YUV4MPEG2, and players those of MPEG-2.
    return make_clip("ffv1", "matroska", pixel_format="yuv444p", size=(70, 50), frames=12)


def test_yuv4mpeg_through_a_pipe_shows_the_frames_of_the_file(lossless):
    with pipe_of(yuv4mpeg(lossless)) as pipe:
        piped = sample_frames(OpenFile("-", pipe), 5)
    filed = sample_frames(lossless, 5)
    assert piped.info.frame_count == 12 and piped.info.frame_rate_hz == 25
    assert piped.timestamps_seconds == filed.timestamps_seconds and not piped.warnings
    assert all(np.array_equal(one, other) for one, other in zip(piped.frames, filed.frames, strict=True))


@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p", "yuv411p", "yuv422p", "yuv444p", "yuva444p", "gray", "gray10", "yuv420p10", "yuv422p12", "yuv444p16"],
)
def test_yuv4mpeg_is_whole_or_breaks_off_within_a_frame(lossless, pixel_format):
    content = yuv4mpeg(lossless, pixel_format)
    with pipe_of(content) as pipe, spooled("-", pipe) as spool:
        assert spool.read() == content
    with pipe_of(content[:-7]) as pipe, pytest.raises(VideoDecodeError, match="^- breaks off within frame 12, after "):
        spooled("-", pipe)


def test_other_formats_may_break_off_as_files_may():
    with pipe_of(make_clip()[:-7]) as pipe, spooled("-", pipe) as spool:
        assert spool.read(8)[4:] == b"ftyp"


def test_an_empty_pipe_is_said_to_be_empty():
    with pipe_of(b"") as pipe, pytest.raises(VideoDecodeError, match="^- is empty"):
        sample_frames(OpenFile("-", pipe), 5)


def test_no_more_is_read_than_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits = PipeLimits(max_bytes=3 << 20)
    with open("/dev/zero", "rb") as endless:
        most = os.stat(tmp_path).st_blocks
        with pytest.raises(VideoDecodeError, match=r"^- is larger than the 0\.00293 GiB that are kept of a pipe"):
            spooled("-", endless, limits)
    assert os.listdir(tmp_path) == [] and os.stat(tmp_path).st_blocks == most


def test_a_pipe_that_does_not_end_is_not_waited_for_without_end():
    with pipe_of(b"YUV4MPEG2 ", ends=False) as pipe, pytest.raises(VideoDecodeError, match="does not end within 0.2 s"):
        spooled("-", pipe, PipeLimits(max_seconds=0.2))


def test_a_trickle_is_no_end(monkeypatch):
    # Always a byte there: only the clock ends it.
    with open("/dev/zero", "rb") as endless:
        monkeypatch.setattr(pipes, "_PIECE_BYTES", 1)
        with pytest.raises(VideoDecodeError, match="does not end within 0.2 s"):
            spooled("-", endless, PipeLimits(max_seconds=0.2))


def test_a_full_disk_is_named(monkeypatch):
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 - closed by what it is given to
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: full)
    with pipe_of(b"x" * 100) as pipe, pytest.raises(VideoDecodeError, match=r"cannot be kept in .* \(No space left"):
        spooled("-", pipe)
