"""Threads of a decoder: when a video gets them, what they hold, and that no bit of a frame shows them."""

import dataclasses
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import av
import numpy as np
import pytest
from ffmpeg import ffmpeg
from fuzz.corpus import sound_files
from fuzz.mutations import mutated

from diffvqa_rt.decoding import DecodeLimits, IsolatedDecoder
from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video import decode, sample_frames, threads
from diffvqa_rt.video.color import picture_from_frame
from diffvqa_rt.video.presentation import Presentation
from diffvqa_rt.video.threads import DecoderThreads

THREADED = ("h264", "vp9", "av1")
DAMAGES, SEED = 200, 0
SIZES = {"4K": (3840, 2160), "8K": (7680, 4320)}


FORMATS = ("yuv420p", "yuv420p10le", "yuv422p", "yuv444p", "nv12", "gray", "yuv411p", "gbrp")


def context(width, height, codec="h264"):
    return SimpleNamespace(width=width, height=height, codec=SimpleNamespace(canonical_name=codec))


def outcome(data, **options):
    """All that a score depends on, or the sentence of a refusal."""
    try:
        sampled = sample_frames(data, 6, **options)
    except VideoDecodeError as error:
        return str(error)
    # Threads have more frames under way.
    info = dataclasses.replace(sampled.info, decoded_frames=0)
    return [frame.tobytes() for frame in sampled.frames], sampled.timestamps_seconds, info, sampled.warnings


@pytest.fixture
def used(monkeypatch):
    """The threads of each reader that is made; the smallest video gets threads."""
    made = []

    class Reader(decode.FrameReader):
        def __init__(self, *arguments, threads, **options):
            made.append(threads)
            super().__init__(*arguments, threads=threads, **options)

    monkeypatch.setattr(decode, "FrameReader", Reader)
    monkeypatch.setattr(threads, "_LEAST_PIXELS", 0)
    return made


def silent(most):
    return DecoderThreads(most, lambda: False)


def test_a_video_gets_threads_where_they_pay():
    assert [silent(most).for_video(context(1280, 720), 250) for most in (1, 2, 64)] == [1, 2, 8]


@pytest.mark.parametrize(
    ("given", "frames"),
    [(context(320, 240), 50), (context(4000, 3000, "av1"), 1), (context(1280, 720, "hevc"), 250)],
    ids=["a tiny clip", "a still", "a codec that hides damage"],
)
def test_else_it_gets_none(given, frames):
    assert silent(8).for_video(given, frames) == 1


def test_threads_hold_a_quarter_of_a_gibibyte_of_frames():
    sizes = ((3840, 2160), (7680, 4320), (8192, 8192))
    assert [silent(64).for_video(context(*size), 250) for size in sizes] == [8, 2, 1]


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_threads_convert_colours_to_the_same_bits(pixel_format):
    presentation = Presentation()
    for size in ((321, 241), (720, 576)):
        frame = av.VideoFrame(*size, pixel_format)
        for plane in frame.planes:
            plane.update(np.random.default_rng(0).integers(0, 4, plane.buffer_size, np.uint8))
        expected, *others = (
            picture_from_frame(frame, "", presentation, threads=count).pixels for count in (1, 2, 3, 8)
        )
        assert expected.std() > 0 and all(np.array_equal(pixels, expected) for pixels in others)


def test_large_pictures_are_converted_by_threads():
    assert [silent(most).for_picture(av.VideoFrame(1280, 720, "yuv420p")) for most in (1, 2, 64)] == [1, 2, 8]
    assert silent(8).for_picture(av.VideoFrame(320, 240, "yuv420p")) == 1


@pytest.fixture(scope="module")
def corpus() -> dict[str, bytes]:
    return {name: data for name, data in sound_files().items() if name.partition(".")[0].split("-")[0] in THREADED}


def test_sound_videos_have_the_same_frames(corpus, used):
    assert len(corpus) >= 10
    for name, data in corpus.items():
        expected = outcome(data)
        used.clear()
        assert outcome(data, threads=silent(4)) == expected, name
        assert used == [4], name


def test_damaged_videos_have_the_same_frames(corpus, used):
    ended_as = Counter()
    for index in range(DAMAGES):
        what, data = mutated(corpus, SEED, index)
        expected = outcome(data)
        used.clear()
        assert outcome(data, threads=silent(4)) == expected, f"file {index} of seed {SEED} ({what})"
        ended_as.update(used[-1:])
    # Damage that nobody can see stays with the threads; the rest is decoded by one.
    assert min(ended_as[4], ended_as[1]) >= DAMAGES // 10


def test_one_thread_decodes_what_several_have_no_memory_for(corpus, used, monkeypatch):
    expected = outcome(corpus["h264.mp4"])
    last_until = decode.FrameReader.last_until

    def most_have_none(self, time):
        if used[-1] > 1:
            raise MemoryError
        return last_until(self, time)

    monkeypatch.setattr(decode.FrameReader, "last_until", most_have_none)
    used.clear()
    assert outcome(corpus["h264.mp4"], threads=silent(4)) == expected and used == [4, 1]


def test_one_thread_decodes_what_libraries_complain_of(corpus, used):
    expected = outcome(corpus["h264.mp4"])
    used.clear()
    complaints = iter([True, True])  # of a file before, which does not count, and of this one
    assert outcome(corpus["h264.mp4"], threads=DecoderThreads(4, lambda: next(complaints))) == expected
    assert used == [4, 1]


def test_the_decoders_process_hears_complaints_of_ffmpegs_libraries(corpus, tmp_path):
    """A program that ends with 0 where nothing was heard of a sound file, and something of a damaged one."""
    program = (
        "import sys; from diffvqa_rt.decoding import worker; from diffvqa_rt.video import sample_frames; "
        "worker._silence(); heard = []\n"
        "for file in sys.argv[1:]: sample_frames(file, 6); heard.append(worker._has_complained())\n"
        "sys.exit(heard != [False, True, False])"
    )
    sound, damaged = tmp_path / "sound.mp4", tmp_path / "damaged.mp4"
    data = bytearray(corpus["h264.mp4"])
    sound.write_bytes(data)
    middle = data.index(b"mdat") + len(data) // 3
    data[middle : middle + 64] = bytes(64)
    damaged.write_bytes(data)
    assert subprocess.run([sys.executable, "-c", program, sound, damaged, sound], check=False).returncode == 0


@pytest.mark.parametrize("size", [pytest.param("4K"), pytest.param("8K", marks=pytest.mark.slow)])
def test_large_videos_stay_within_the_limits(tmp_path, size):
    width, height = SIZES[size]
    file = tmp_path / "large.mp4"
    scene = f"testsrc2=size=480x270:rate=25:duration=0.4,scale={width}:{height}:flags=neighbor"
    ffmpeg("-f", "lavfi", "-i", scene, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", file)
    expected = IsolatedDecoder().frames(file, 2)
    for limits in (DecodeLimits(), DecodeLimits(max_decode_memory_bytes=(3 if size == "8K" else 2) << 29)):
        found = IsolatedDecoder(limits, threads=8).frames(file, 2)
        np.testing.assert_array_equal(found.frames, expected.frames)
        assert found.warnings == expected.warnings
