"""Sampling against a full decode, and what becomes of damaged or hostile files."""

import dataclasses
import gc
import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import InputContainer
from clips import make_audio, make_clip, moving_picture
from numpy.typing import NDArray

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.color import picture_from_frame
from diffvqa_rt.video.filters import deinterlaced
from diffvqa_rt.video.presentation import read_presentation


def full_decode(clip: bytes) -> tuple[list[int], list[NDArray[np.uint8]], float]:
    """All frames of a clip in order of time, with the length of a time unit in seconds."""
    with av.open(io.BytesIO(clip)) as container:
        presentation = read_presentation(container.streams.video[0])
        frames = list(container.decode(video=0))
        unit = float(container.streams.video[0].time_base)
    has_times = None not in [frame.pts for frame in frames] and container.format.name != "avi"
    if has_times:
        frames.sort(key=lambda frame: frame.pts)
    if frames[0].interlaced_frame:
        whole = [
            deinterlaced(before, frame, after)
            for before, frame, after in zip([None, *frames], frames, [*frames[1:], None], strict=False)
        ]
    else:
        whole = [None] * len(frames)
    pictures = [
        picture_from_frame(frame, "clip", presentation, whole=made).pixels
        for frame, made in zip(frames, whole, strict=True)
    ]
    if not has_times:
        return list(range(len(frames))), pictures, 1 / 25
    return [frame.pts - frames[0].pts for frame in frames], pictures, unit


B_PYRAMID = {"x264-params": "bframes=3:b-pyramid=normal:b-adapt=0:scenecut=0"}
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
VARIABLE_MS = np.random.default_rng(0).integers(10, 300, 40).cumsum().tolist()


@pytest.mark.parametrize(
    "arguments",
    [
        {"options": B_PYRAMID},
        {"options": B_PYRAMID, "gop": 90, "frames": 90},
        {"options": B_PYRAMID, "gop": 90, "frames": 90, "container": "mpegts"},
        {"options": {"x264-params": "interlaced=1:bframes=3"}, "gop": 90, "frames": 90},
        {"options": OPEN_GOP},
        {"options": OPEN_GOP, "container": "mpegts"},
        {"options": {"intra-refresh": "1"}, "container": "mpegts"},
        {"times_ms": VARIABLE_MS},
        {"times_ms": VARIABLE_MS, "container": "matroska"},
        {"times_ms": VARIABLE_MS, "container": "flv"},
        {"times_ms": list(range(5000, 6600, 40))},
        {"times_ms": list(range(5000, 6600, 40)), "container": "mpegts"},
        # An edit list that starts within a group of pictures.
        {"times_ms": list(range(-200, 1400, 40))},
        # No duration and no index in the header.
        {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
        {"container": "h264"},
        {"container": "avi"},
        {"codec": "mpeg4", "container": "avi", "b_frames": 2},
        {"codec": "mpeg4", "b_frames": 2},
        {"codec": "mpeg2video", "container": "mpeg", "b_frames": 2},
        {"codec": "libx265"},
        {"codec": "libx265", "container": "hevc"},
        {"codec": "libvpx-vp9", "container": "webm", "options": {"lag-in-frames": "10", "auto-alt-ref": "1"}},
        {"codec": "libvpx", "container": "webm", "options": {"lag-in-frames": "10", "auto-alt-ref": "1"}},
        {"codec": "ffv1", "container": "matroska"},
        {"codec": "prores_ks", "container": "mov", "pixel_format": "yuv422p10le"},
        {"has_audio": True},
        {"size": (16, 16)},
        {"size": (62, 46), "pixel_format": "yuv444p"},
        {"codec": "ffv1", "container": "matroska", "size": (33, 17)},
    ],
    ids=lambda arguments: "-".join(str(value)[:24] for value in arguments.values()),
)
def test_samples_are_those_of_a_full_decode(arguments: dict) -> None:
    clip = make_clip(**{"frames": 40, "gop": 10} | arguments)
    times, pictures, unit = full_decode(clip)
    duration = sample_frames(clip, 1).info.duration_seconds
    last_duration = duration - times[-1] * unit
    assert 0 < last_duration < 0.5
    for count in (1, 3, 8, 60):
        sampled = sample_frames(clip, count)
        for i in range(count):
            centre = (i + 0.5) / count * duration
            # Half a nanosecond: a centre that falls on a frame's own time shows that frame.
            index = np.searchsorted([time * unit for time in times], centre + 5e-10, side="right") - 1
            assert sampled.timestamps_seconds[i] == pytest.approx(times[index] * unit)
            np.testing.assert_array_equal(sampled.frames[i], pictures[index])
        assert sampled.info.frame_count == len(times)
        assert sampled.info.corrupt_frames == 0


def test_variable_frame_rate_is_sampled_by_time() -> None:
    # Nine frames in the first second, then one for nine seconds: all centres but one fall on the last.
    clip = make_clip(frames=11, times_ms=[*range(0, 900, 100), 1000, 10000])
    sampled = sample_frames(clip, 5)
    assert sampled.timestamps_seconds == (1.0, 1.0, 1.0, 1.0, 1.0)
    assert sample_frames(clip, 100).timestamps_seconds[:3] == (0.0, 0.1, 0.2)


def test_fewer_frames_than_samples_repeat_the_nearest() -> None:
    sampled = sample_frames(make_clip(frames=2), 4)
    assert sampled.timestamps_seconds == (0.0, 0.0, 0.04, 0.04)
    assert sampled.frames[0] is sampled.frames[1]
    assert not np.array_equal(sampled.frames[1], sampled.frames[2])
    single = sample_frames(make_clip(frames=1), 8)
    assert single.timestamps_seconds == (0.0,) * 8
    assert single.info.frame_count == 1


@pytest.mark.parametrize(
    ("codec", "container"), [("libx264", "mp4"), ("libx264", "mpegts"), ("libx265", "matroska"), ("libvpx-vp9", "webm")]
)
def test_only_the_sampled_groups_of_pictures_are_decoded(codec: str, container: str) -> None:
    clip = make_clip(codec, container, frames=240, gop=10, size=(32, 32))
    sampled = sample_frames(clip, 3)
    assert sampled.info.frame_count == 240
    # Half a group to reach each sample, and the frames that the decoder holds back.
    assert sampled.info.decoded_frames <= 3 * 16


def test_unreferenced_frames_on_the_way_are_not_decoded() -> None:
    clip = make_clip(frames=100, gop=100, options=B_PYRAMID)
    _, pictures, _ = full_decode(clip)
    sampled = sample_frames(clip, 1)
    np.testing.assert_array_equal(sampled.frames[0], pictures[50])
    assert 20 < sampled.info.decoded_frames < 45


def test_stored_facts_are_reported() -> None:
    color = {"colorspace": 9, "color_trc": 16, "color_range": 1}
    clip = make_clip("libx265", pixel_format="yuv420p10le", color=color, frames=10, gop=5)
    info = sample_frames(clip, 2).info
    assert dataclasses.asdict(info) | {"decoded_frames": 0} == {
        "width": 64,
        "height": 48,
        "frame_count": 10,
        "duration_seconds": 0.4,
        "frame_rate_hz": 25.0,
        "decoder": "pyav",
        "codec": "hevc",
        "pixel_format": "yuv420p10le",
        "bit_depth": 10,
        "rotation_degrees": 0,
        "is_mirrored": False,
        "color_matrix": "bt2020nc",
        "is_color_matrix_declared": True,
        "color_range": "limited",
        "color_transfer": "smpte2084",
        "decoded_frames": 0,
        "corrupt_frames": 0,
        "color_primaries": "unspecified",
        "sample_aspect_ratio": None,
        "field_order": "progressive",
        "is_deinterlaced": False,
    }
    json.dumps(dataclasses.asdict(info), allow_nan=False)


def test_path_and_bytes_and_repetition_give_the_same_frames(tmp_path: Path) -> None:
    clip = make_clip("libx265", frames=30)
    # ffmpeg would take this name for a numbered series of images.
    path = tmp_path / "odd %03d.png"
    path.write_bytes(clip)
    expected = sample_frames(clip, 5)
    for source in (clip, path, str(path)):
        sampled = sample_frames(source, 5)
        assert sampled.info == expected.info
        assert sampled.timestamps_seconds == expected.timestamps_seconds
        np.testing.assert_array_equal(np.stack(sampled.frames), np.stack(expected.frames))


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    clip = make_clip(frames=10)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(clip,))
    writer.start()
    sampled = sample_frames(tmp_path / "pipe", 3)
    writer.join()
    np.testing.assert_array_equal(np.stack(sampled.frames), np.stack(sample_frames(clip, 3).frames))


def test_arrays_are_sampled_like_videos() -> None:
    clip = np.stack([moving_picture(i, 20, 10) for i in range(10)])
    sampled = sample_frames(clip, 5)
    assert sampled.timestamps_seconds == (1.0, 3.0, 5.0, 7.0, 9.0)
    np.testing.assert_array_equal(np.stack(sampled.frames), clip[1::2])
    assert (sampled.info.codec, sampled.info.frame_count, sampled.info.frame_rate_hz) == ("array", 10, None)
    assert sample_frames(clip[:2], 4).timestamps_seconds == (0.0, 0.0, 1.0, 1.0)
    assert len(sample_frames(clip[0], 3).frames) == 3


@pytest.mark.parametrize(
    ("source", "count", "error", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), 1, TypeError, "source is an array of float32; expected uint8"),
        (np.zeros((4, 4), np.uint8), 1, ValueError, r"source is an array of shape \(4, 4\); expected \[T, H, W, 3\]"),
        (np.zeros((2, 3, 4, 4), np.uint8), 1, ValueError, r"shape \(2, 3, 4, 4\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), 1, ValueError, r"shape \(0, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), 0, ValueError, "count is 0; expected at least 1"),
        (3, 1, TypeError, "source is a int; expected a path, bytes or a uint8 array"),
    ],
)
def test_bad_arguments_are_named(source: object, count: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample_frames(source, count)  # type: ignore[arg-type]


def test_unreadable_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("Not a video at all.\n" * 100)
    for name, reason in {
        "missing.mp4": "No such file or directory",
        ".": "is a folder without pictures of its own",
        "empty.mp4": "is empty",
        "text.mp4": "is not a video or image that can be read",
    }.items():
        with pytest.raises(VideoDecodeError, match=reason) as caught:
            sample_frames(tmp_path / name, 1)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is not None or name in (".", "empty.mp4")
    with pytest.raises(VideoDecodeError, match="neither a file nor a pipe"):
        sample_frames("/dev/zero", 1)
    with pytest.raises(VideoDecodeError, match="<bytes> is empty"):
        sample_frames(b"", 1)


def test_sound_alone_is_refused() -> None:
    for has_cover in (False, True):
        with pytest.raises(VideoDecodeError, match="<bytes> has no video stream"):
            sample_frames(make_audio(has_cover=has_cover), 1)


def test_a_broken_off_file_gives_what_is_there() -> None:
    whole = make_clip(frames=80, gop=10, container_options={"movflags": "faststart"})
    expected = sample_frames(whole, 80)
    cut = sample_frames(whole[: len(whole) * 2 // 3], 8)
    assert 30 < cut.info.frame_count < 70
    assert cut.info.duration_seconds < 3
    for time, frame in zip(cut.timestamps_seconds, cut.frames, strict=True):
        np.testing.assert_array_equal(frame, expected.frames[round(time * 25)])
    index_last = make_clip(frames=80)
    with pytest.raises(VideoDecodeError, match="check that it is complete") as caught:
        sample_frames(index_last[: len(index_last) // 2], 8)
    assert isinstance(caught.value.__cause__, av.FFmpegError)


def spoil(clip: bytes, first: int, last: int) -> bytes:
    """The clip with the packets `first` to `last` (in the file's order) overwritten by noise."""
    with av.open(io.BytesIO(clip)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    spoiled = bytearray(clip)
    for position, size in packets[first : last + 1]:
        spoiled[position + 4 : position + size] = np.random.default_rng(position).bytes(size - 4)
    return bytes(spoiled)


def test_corrupt_frames_give_way_to_the_last_good_one() -> None:
    clip = make_clip(codec="mpeg4", frames=40, gop=1)
    sound = sample_frames(clip, 40)
    damaged = sample_frames(spoil(clip, 10, 12), 40)
    assert damaged.info.corrupt_frames == 3
    expected = [9 if index in (10, 11, 12) else index for index in range(40)]
    assert damaged.timestamps_seconds == tuple(sound.timestamps_seconds[index] for index in expected)
    for frame, index in zip(damaged.frames, expected, strict=True):
        np.testing.assert_array_equal(frame, sound.frames[index])
    # None before it: then the first good one.
    assert sample_frames(spoil(clip, 0, 4), 40).timestamps_seconds[0] == sound.timestamps_seconds[5]
    # None after it: then the last good one.
    assert sample_frames(spoil(clip, 30, 39), 8).timestamps_seconds[-1] == sound.timestamps_seconds[29]


def test_a_spoiled_keyframe_leads_to_the_group_before() -> None:
    clip = make_clip(frames=60, gop=10, b_frames=0, options={"x264-params": "scenecut=0"})
    sound = sample_frames(clip, 60)
    damaged = sample_frames(spoil(clip, 30, 39), 4)
    # The third sample, frame 37, lies in the spoiled group.
    assert 0 < damaged.info.corrupt_frames <= 10
    assert damaged.timestamps_seconds[2] == sound.timestamps_seconds[29]
    np.testing.assert_array_equal(damaged.frames[2], sound.frames[29])
    np.testing.assert_array_equal(damaged.frames[3], sound.frames[52])


def test_nothing_that_decodes_is_an_error() -> None:
    with pytest.raises(VideoDecodeError, match="has no frame that decodes, of 12; check that it is undamaged"):
        sample_frames(spoil(make_clip(codec="mpeg4", frames=12, gop=1), 0, 11), 2)


def test_damaged_videos_score_the_same_every_time(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for codec, container in (("libx264", "mpegts"), ("libx265", "mpegts"), ("libvpx-vp9", "webm")):
        clip = make_clip(codec, container, frames=40, gop=10)
        for _ in range(6):
            damaged = bytearray(clip)
            for position in random.integers(1000, len(clip), 5):
                damaged[position : position + 20] = random.bytes(20)
            first, second = (sample_frames(bytes(damaged), 6) for _ in range(2))
            assert first.info == second.info
            assert first.timestamps_seconds == second.timestamps_seconds
            np.testing.assert_array_equal(np.stack(first.frames), np.stack(second.frames))
    assert capfd.readouterr() == ("", "")


def test_the_picture_size_may_change_on_the_way() -> None:
    small = make_clip(container="mpegts", frames=25, size=(64, 48), times_ms=list(range(0, 1000, 40)))
    large = make_clip(container="mpegts", frames=25, size=(96, 80), times_ms=list(range(1000, 2000, 40)))
    sampled = sample_frames(small + large, 4)
    assert [frame.shape for frame in sampled.frames] == [(48, 64, 3)] * 2 + [(80, 96, 3)] * 2


def test_playlists_are_refused_and_nothing_they_name_is_opened(tmp_path: Path) -> None:
    clip = tmp_path / "clip.ts"
    clip.write_bytes(make_clip(container="mpegts"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts"
        for target in (clip.as_uri(), str(clip), url):
            for text in (
                f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
                f"ffconcat version 1.0\nfile '{target}'\n",
                f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{target}</BaseURL></MPD>',
                "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n",
            ):
                playlist = tmp_path / "playlist.m3u8"
                playlist.write_text(text)
                for source in (playlist, text.encode()):
                    with pytest.raises(VideoDecodeError, match="not a playlist"):
                        sample_frames(source, 1)
        with pytest.raises(VideoDecodeError, match="only local files are; download it"):
            sample_frames(url, 1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_container_that_declares_too_many_pixels_is_refused() -> None:
    # This codec has its size from the container: there it stands before the resolution of 72 dpi.
    clip = make_clip("qtrle", "mov", pixel_format="rgb24", frames=2)
    size = struct.pack(">HHI", 64, 48, 72 << 16)
    assert clip.count(size) == 1
    with pytest.raises(VideoDecodeError, match="at most 67,108,864 pixels a picture"):
        sample_frames(clip.replace(size, struct.pack(">HHI", 9000, 9000, 72 << 16)), 1)


def test_no_decoded_frame_outlives_the_call() -> None:
    clip = make_clip(frames=10)
    gc.collect()
    gc.disable()
    try:
        sampled = sample_frames(clip, 3)
        alive = [thing for thing in gc.get_objects() if isinstance(thing, av.VideoFrame | InputContainer)]
        # The arrays that are handed over lie in RGB frames.
        alive = [thing for thing in alive if thing.format.name != "rgb24"]
    finally:
        gc.enable()
    assert len(sampled.frames) == 3
    assert alive == []


def test_importing_needs_no_torch_and_leaves_logging_alone() -> None:
    code = (
        "import logging, sys; before = logging.root.level, list(logging.root.handlers);"
        "import diffvqa_rt.video; assert 'torch' not in sys.modules;"
        "assert before == (logging.root.level, list(logging.root.handlers))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
