"""What a decoder that only decodes is told, against a full decode; and what it is not given."""

import io
import math
from pathlib import Path

import av
import numpy as np
import pytest
from clips import make_clip

from diffvqa_rt.errors import DeviceDecodeError, VideoDecodeError
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.plan import middle_frame, plan_decoding, rgb_matrix

SIZE = (160, 146)
B_PYRAMID = {"x264-params": "bframes=3:b-pyramid=normal:b-adapt=0:scenecut=0"}
VARIABLE_MS = np.random.default_rng(0).integers(10, 300, 40).cumsum().tolist()


@pytest.mark.parametrize(
    "arguments",
    [
        {"options": B_PYRAMID},
        {"options": B_PYRAMID, "container": "matroska"},
        {"times_ms": VARIABLE_MS, "options": B_PYRAMID},
        {"times_ms": VARIABLE_MS, "container": "matroska"},
        {"times_ms": list(range(5000, 6600, 40))},
        {"orientation": (90, False)},
        {"orientation": (180, True)},
        {"codec": "libx265"},
        {"codec": "libx265", "pixel_format": "yuv420p10le"},
        {"codec": "libvpx-vp9", "container": "webm", "options": {"lag-in-frames": "10", "auto-alt-ref": "1"}},
        {"has_audio": True},
        {"frames": 3},
    ],
    ids=lambda arguments: "-".join(str(value)[:24] for value in arguments.values()),
)
def test_planned_frames_are_the_sampled_ones(arguments: dict) -> None:
    clip = make_clip(**{"frames": 40, "gop": 10, "size": SIZE} | arguments)
    sampled = sample_frames(clip, 8)
    plan = plan_decoding(clip, 8)
    assert plan.timestamps_seconds == sampled.timestamps_seconds
    for field in ("width", "height", "frame_count", "rotation_degrees", "is_mirrored", "color_matrix", "bit_depth"):
        assert getattr(plan.info, field) == getattr(sampled.info, field)
    assert (plan.orientation.rotation_degrees, plan.orientation.is_mirrored) == (
        sampled.info.rotation_degrees,
        sampled.info.is_mirrored,
    )
    with av.open(io.BytesIO(clip)) as container:
        times = sorted(frame.time for frame in container.decode(video=0))
    seconds = [times[number] - times[0] for number in plan.frame_numbers]
    np.testing.assert_allclose(seconds, sampled.timestamps_seconds, atol=1e-9)
    np.testing.assert_array_equal(middle_frame(plan), sampled.frames[4])


def test_frames_before_time_zero_are_not_numbered() -> None:
    # As DALI counts. The edit list shows the video from zero on, and keeps the frames that lead there.
    clip = make_clip(frames=40, gop=10, size=SIZE, times_ms=list(range(-200, 1400, 40)))
    with av.open(io.BytesIO(clip)) as container:
        times = sorted(packet.pts for packet in container.demux(video=0) if packet.pts is not None)
        unit = float(container.streams.video[0].time_base)
    assert times[0] < 0
    counted = [time * unit for time in times if time >= 0]
    plan = plan_decoding(clip, 8)
    assert [counted[number] for number in plan.frame_numbers] == pytest.approx(plan.timestamps_seconds)
    assert plan.timestamps_seconds == sample_frames(clip, 8).timestamps_seconds


@pytest.mark.parametrize(
    ("name", "red", "blue"), [("bt709", 0.2126, 0.0722), ("smpte170m", 0.299, 0.114), ("bt2020nc", 0.2627, 0.0593)]
)
def test_the_matrix_turns_bt601_into_what_is_declared(name: str, red: float, blue: float) -> None:
    # Luma and chroma, both within what stays inside of 0 to 255 either way.
    ycc = np.random.default_rng(0).uniform((110, -40, -40), (150, 40, 40), (1000, 3))

    def rgb(red: float, blue: float) -> np.ndarray:
        y, cb, cr = ycc.T
        r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
        return np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], axis=-1)

    np.testing.assert_allclose(rgb(0.299, 0.114) @ rgb_matrix(name).T, rgb(red, blue), atol=1e-3)
    # Grey stays grey.
    np.testing.assert_allclose(rgb_matrix(name).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "obstacle"),
    [
        ({"container": "avi", "b_frames": 0}, "container avi"),
        ({"container": "mpegts"}, "container mpegts"),
        ({"codec": "mpeg4"}, "codec mpeg4"),
        ({"codec": "prores_ks", "container": "mov", "pixel_format": "yuv422p10le"}, "codec prores"),
        ({"pixel_format": "yuv444p"}, "pixel format yuv444p"),
        ({"pixel_format": "yuv420p10le"}, "pixel format yuv420p10le"),
        ({"color": {"color_range": 2}}, "pixel format yuvj420p|colour range full"),
        ({"options": {"x264-params": "interlaced=1"}, "size": (160, 160)}, "interlaced frames"),
        ({"size": (64, 48)}, "64x48 pixels, not even numbers from 144 to 4096"),
        ({"codec": "libvpx-vp9", "container": "webm", "size": (161, 147)}, "161x147 pixels"),
        ({"container": "h264"}, "frames without a time"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_device_would_get_wrong_is_refused(arguments: dict, obstacle: str) -> None:
    clip = make_clip(**{"frames": 4, "size": SIZE} | arguments)
    assert math.isfinite(sample_frames(clip, 2).info.duration_seconds)
    with pytest.raises(DeviceDecodeError, match=obstacle):
        plan_decoding(clip, 2)


def test_a_video_that_takes_long_to_reach_is_not_for_the_gpu() -> None:
    far, near = (make_clip(size=(160, 160), frames=1200, gop=gop) for gop in (1200, 300))
    with pytest.raises(DeviceDecodeError, match=r"1,125 frames from a keyframe to a sample, too many for the GPU"):
        plan_decoding(far, 8)
    assert len(plan_decoding(near, 8).frame_numbers) == 8


@pytest.mark.parametrize(
    "playlist",
    [
        b"ffconcat version 1.0\nfile secret.webm\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\nsecret.webm\n#EXT-X-ENDLIST\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_no_plan_lets_a_playlist_reach_dali(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, playlist: bytes) -> None:
    # DALI's own ffmpeg opens the file that the first of these names.
    (tmp_path / "secret.webm").write_bytes(make_clip("libvpx-vp9", "webm", size=SIZE, frames=2))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoDecodeError, match="<bytes> is not a video or image that can be read"):
        plan_decoding(playlist, 8)
