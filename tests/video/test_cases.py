"""Files that people really have: what they show is what the same pictures show in a file that is in order."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from ffmpeg import (
    LOSSLESS,
    SAMPLE_ENTRY,
    SCENE,
    ffmpeg,
    flv_from_tags,
    flv_tags,
    insert_box,
    with_all_packets_flagged,
)

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video import SampledFrames, sample_frames
from diffvqa_rt.video.filters import deinterlaced

X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "12")
FILTERED = ("-vf", "negate,gblur=sigma=4")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("cases") / "base.mkv"
    ffmpeg("-f", "lavfi", "-i", SCENE, "-c:v", "ffv1", file)
    return file


def assert_same(found: SampledFrames, expected: SampledFrames, tolerance: float = 0) -> None:
    assert found.timestamps_seconds == pytest.approx(expected.timestamps_seconds, abs=1e-3)
    assert found.info.duration_seconds == pytest.approx(expected.info.duration_seconds, abs=1e-3)
    assert found.info.frame_count == expected.info.frame_count
    for frame, other in zip(found.frames, expected.frames, strict=True):
        assert np.abs(frame.astype(int) - other).mean() <= tolerance


def codes(sampled: SampledFrames) -> list[str]:
    return [warning.code for warning in sampled.warnings]


# --- what the container says of a picture -----------------------------------------------------------------------------


def clean_aperture(width: int, height: int) -> bytes:
    return struct.pack(">I4s8I", 40, b"clap", width, 1, height, 1, 0, 1, 0, 1)


def test_a_clean_aperture_crops(base: Path, tmp_path: Path) -> None:
    whole, cropped = tmp_path / "whole.mov", tmp_path / "clap.mov"
    ffmpeg("-i", base, *LOSSLESS, whole)
    cropped.write_bytes(insert_box(whole, (*SAMPLE_ENTRY, "avc1"), clean_aperture(96, 80)))
    matroska = tmp_path / "clap.mkv"
    ffmpeg("-i", cropped, "-c", "copy", matroska)
    expected = [frame[20:100, 32:128] for frame in sample_frames(whole, 3).frames]
    for file in (cropped, matroska):
        sampled = sample_frames(file, 3)
        assert (sampled.info.width, sampled.info.height) == (96, 80)
        np.testing.assert_array_equal(sampled.frames, expected)


def test_a_crop_comes_before_the_turn(base: Path, tmp_path: Path) -> None:
    whole, turned, cropped = tmp_path / "whole.mov", tmp_path / "turned.mov", tmp_path / "clap.mov"
    ffmpeg("-i", base, *LOSSLESS, whole)
    ffmpeg("-display_rotation", 90, "-i", whole, "-c", "copy", turned)
    cropped.write_bytes(insert_box(turned, (*SAMPLE_ENTRY, "avc1"), clean_aperture(96, 80)))
    expected = [np.rot90(frame[20:100, 32:128]) for frame in sample_frames(whole, 2).frames]
    np.testing.assert_array_equal(sample_frames(cropped, 2).frames, expected)


@pytest.mark.parametrize(
    ("options", "turned"),
    [
        ("rotate=90", lambda frame: np.rot90(frame)),
        ("rotate=180", lambda frame: frame[::-1, ::-1]),
        ("flip=horizontal", lambda frame: frame[:, ::-1]),
        ("flip=vertical", lambda frame: frame[::-1]),
    ],
)
def test_a_turn_in_the_bitstream_holds_until_the_next_one(base: Path, tmp_path: Path, options: str, turned) -> None:
    plain, message = tmp_path / "plain.mp4", tmp_path / "sei.mp4"
    ffmpeg("-i", base, *LOSSLESS, "-g", 300, plain)
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", f"h264_metadata=display_orientation=insert:{options}", message)
    expected = [turned(frame) for frame in sample_frames(plain, 4).frames]
    np.testing.assert_array_equal(sample_frames(message, 4).frames, expected)


@pytest.mark.parametrize(
    "codec", [("png",), ("qtrle", "-pix_fmt", "rgb24"), ("rawvideo", "-pix_fmt", "uyvy422"), ("svq1",)]
)
def test_crops_and_mirrors_are_any_codecs(base: Path, tmp_path: Path, codec: tuple) -> None:
    plain, mirrored, cropped = tmp_path / "plain.mov", tmp_path / "mirrored.mov", tmp_path / "cropped.mov"
    ffmpeg("-i", base, "-frames:v", 3, "-c:v", *codec, plain)
    ffmpeg("-display_rotation", 90, "-display_hflip", "-i", plain, "-c", "copy", mirrored)
    entry = plain.read_bytes().partition(b"stsd")[2][12:16].decode("latin-1")
    cropped.write_bytes(insert_box(mirrored, (*SAMPLE_ENTRY, entry), clean_aperture(96, 80)))
    expected = [np.rot90(frame[20:100, 32:128])[:, ::-1] for frame in sample_frames(plain, 2).frames]
    np.testing.assert_array_equal(sample_frames(cropped, 2).frames, expected)


def test_a_turn_of_the_container_takes_the_place_of_the_bitstreams(base: Path, tmp_path: Path) -> None:
    plain, message, both = tmp_path / "plain.mp4", tmp_path / "sei.mp4", tmp_path / "both.mp4"
    ffmpeg("-i", base, *LOSSLESS, plain)
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", "h264_metadata=display_orientation=insert:flip=vertical", message)
    ffmpeg("-display_rotation", 90, "-i", message, "-c", "copy", both)
    expected = [np.rot90(frame) for frame in sample_frames(plain, 2).frames]
    np.testing.assert_array_equal(sample_frames(both, 2).frames, expected)


def test_dolby_vision_without_a_base_layer_is_refused(base: Path, tmp_path: Path) -> None:
    plain, file = tmp_path / "plain.mp4", tmp_path / "profile.mp4"
    x265 = ("-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1", "-x265-params", "log-level=none:pools=1")
    ffmpeg("-i", base, "-frames:v", 4, "-pix_fmt", "yuv420p10le", *x265, plain)

    def record(profile: int, compatibility: int) -> bytes:
        return (
            struct.pack(">I4s", 32, b"dvcC") + bytes([1, 0, profile << 1, 6 << 3 | 5, compatibility << 4]) + bytes(19)
        )

    file.write_bytes(insert_box(plain, (*SAMPLE_ENTRY, "hvc1"), record(5, 0)))
    with pytest.raises(VideoDecodeError, match="is Dolby Vision of profile 5"):
        sample_frames(file, 1)
    file.write_bytes(insert_box(plain, (*SAMPLE_ENTRY, "hvc1"), record(8, 1)))
    assert codes(sample_frames(file, 1)) == ["dolby-vision-as-coded"]


def test_chroma_without_a_declared_place_lies_to_the_left(base: Path, tmp_path: Path) -> None:
    said, vp9, raw = tmp_path / "said.mp4", tmp_path / "unsaid.webm", tmp_path / "unsaid.avi"
    ffmpeg("-i", base, "-frames:v", 10, *LOSSLESS, said)
    ffmpeg("-i", base, "-frames:v", 10, "-c:v", "libvpx-vp9", "-lossless", 1, "-cpu-used", 8, vp9)
    ffmpeg("-i", base, "-frames:v", 10, "-c:v", "rawvideo", raw)
    for unsaid in (vp9, raw):
        assert_same(sample_frames(unsaid, 2), sample_frames(said, 2))


def test_an_encrypted_video_is_refused_as_such(base: Path, tmp_path: Path) -> None:
    plain, file = tmp_path / "plain.mp4", tmp_path / "encrypted.mp4"
    ffmpeg("-i", base, *X264, plain)
    key = "00112233445566778899aabbccddeeff"
    scheme = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key)
    ffmpeg("-i", plain, "-c", "copy", *scheme, file)
    with pytest.raises(VideoDecodeError, match=r"encrypted.mp4 is encrypted; decrypt it first$"):
        sample_frames(file, 1)


# --- where decoding can start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        *(("mpeg4", "mp4"), ("wmv2", "wmv"), ("flv", "flv"), ("msmpeg4", "avi"), ("h263p", "mov"), ("mpeg4", "mkv")),
        *(("libx264", "nut"), ("libx265", "mp4"), ("libvpx-vp9", "nut"), ("mpeg2video", "mov")),
    ],
)
def test_false_keyframes_are_not_believed(base: Path, tmp_path: Path, codec: str, container: str) -> None:
    keyed = tmp_path / f"keyed.{container}"
    ffmpeg("-i", base, "-c:v", codec, "-q:v", 2, "-g", 12, keyed)
    flagged = with_all_packets_flagged(keyed, tmp_path / f"flagged.{container}")
    sampled = sample_frames(flagged, 8)
    assert sampled.info.corrupt_frames == 0
    for frame, other in zip(sampled.frames, sample_frames(keyed, 8).frames, strict=True):
        np.testing.assert_array_equal(frame, other)


def test_a_table_of_keyframes_may_be_missing(base: Path, tmp_path: Path) -> None:
    keyed, unkeyed = tmp_path / "keyed.mp4", tmp_path / "unkeyed.mp4"
    ffmpeg("-i", base, "-c:v", "mpeg4", "-q:v", 2, "-g", 12, "-bf", 2, keyed)
    unkeyed.write_bytes(keyed.read_bytes().replace(b"stss", b"skip"))
    assert_same(sample_frames(unkeyed, 8), sample_frames(keyed, 8))


def test_frames_before_the_first_keyframe_are_passed_over(base: Path, tmp_path: Path) -> None:
    keyed = tmp_path / "keyed.avi"
    ffmpeg("-i", base, "-c:v", "mpeg4", "-q:v", 2, "-g", 12, keyed)
    sampled = sample_frames(with_all_packets_flagged(keyed, tmp_path / "midgop.avi", skipped=4), 30)
    assert sampled.info.corrupt_frames == 8
    assert codes(sampled) == ["damaged"]
    np.testing.assert_array_equal(sampled.frames[0], sample_frames(keyed, 60).frames[12])


@pytest.mark.parametrize("codec", ["smc", "rawvideo", "msrle", "qtrle"])
def test_a_palette_reaches_every_frame(base: Path, tmp_path: Path, codec: str) -> None:
    shown = tmp_path / "shown.mkv"
    paletted = "split[a][b];[a]palettegen[p];[b][p]paletteuse"
    container = "mov" if codec in ("smc", "qtrle") else "avi"
    file = tmp_path / f"palette.{container}"
    ffmpeg("-i", base, "-vf", paletted, "-c:v", codec, "-pix_fmt", "pal8", file)
    ffmpeg("-i", file, "-c:v", "ffv1", "-pix_fmt", "gbrp", shown)
    assert_same(sample_frames(file, 8), sample_frames(shown, 8))


def test_an_encoder_may_come_back_with_other_settings(tmp_path: Path) -> None:
    scene = ("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25:duration=3", "-c:v", "libx264", "-preset", "veryfast")
    keyed = "keyint=5:scenecut=0:bframes=0:"
    parts = [tmp_path / "1.flv", tmp_path / "2.flv"]
    for part, settings in zip(parts, ("cabac=0", "cabac=1:ref=4"), strict=True):
        ffmpeg(*scene, "-crf", 16, "-x264-params", keyed + settings, part)
    tags = [
        (kind, time + later, body)
        for part, later in zip(parts, (0, 3000), strict=True)
        for kind, time, body in flv_tags(part)
        if kind == 9
    ]
    restarted = tmp_path / "restarted.flv"
    restarted.write_bytes(flv_from_tags(parts[0].read_bytes(), tags))
    sampled = sample_frames(restarted, 8)
    assert sampled.info.corrupt_frames == 0
    assert sampled.timestamps_seconds == pytest.approx([0.36, 1.12, 1.84, 2.6, 3.36, 4.12, 4.84, 5.6])
    np.testing.assert_array_equal(sampled.frames[7], sample_frames(parts[1], 75).frames[65])


# --- one clock --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spliced(base: Path) -> SampledFrames:
    """`base`, and `base` in other colours after it, in one piece."""
    file = base.with_name("spliced.mkv")
    graph = "[0]split[a][b];[b]negate,gblur=sigma=4[c];[a][c]concat"
    ffmpeg("-i", base, "-filter_complex", graph, *X264, file)
    return sample_frames(file, 8)


@pytest.mark.parametrize(
    ("suffix", "codec", "offsets"),
    [
        ("ts", X264, (0, 0)),
        ("ts", X264, (30, 0)),
        ("ts", X264, (0, 100)),
        (
            "ts",
            ("-c:v", "libx265", "-preset", "ultrafast", "-crf", 12, "-x265-params", "log-level=none:pools=1"),
            (0, 0),
        ),
        ("mkv", X264, (0, 0)),
        ("webm", ("-c:v", "libvpx", "-b:v", "4M", "-cpu-used", 8), (0, 0)),
        ("ogv", ("-c:v", "libtheora", "-q:v", 9), (0, 0)),
        ("mpg", ("-c:v", "mpeg2video", "-q:v", 2), (0, 0)),
        ("h264", X264, (0, 0)),
    ],
)
def test_recordings_one_after_the_other_are_one_video(
    base: Path, tmp_path: Path, spliced: SampledFrames, suffix: str, codec: tuple, offsets: tuple[int, int]
) -> None:
    joined = b""
    for filtered, offset in zip(((), FILTERED), offsets, strict=True):
        part = tmp_path / f"part.{suffix}"
        ffmpeg("-i", base, *filtered, *codec, "-output_ts_offset", offset, part)
        joined += part.read_bytes()
    sampled = sample_frames(joined, 8)
    assert_same(sampled, spliced, tolerance=6)
    assert sampled.info.frame_rate_hz == pytest.approx(25)
    assert codes(sampled) == ([] if suffix == "h264" else ["times-mended"])


def test_tags_of_two_recordings_in_one_flv(base: Path, tmp_path: Path, spliced: SampledFrames) -> None:
    tags = []
    for filtered in ((), FILTERED):
        part = tmp_path / "part.flv"
        ffmpeg("-i", base, *filtered, *X264, part)
        tags += [tag for tag in flv_tags(part) if tag[0] == 9]
    assert_same(sample_frames(flv_from_tags(part.read_bytes(), tags), 8), spliced, tolerance=6)


def test_times_that_stand_still_are_counted(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "zero.mkv"
    still = ("-vf", "setpts=0", "-fps_mode", "passthrough", "-enc_time_base", "1/1000")
    ffmpeg("-i", base, *still, "-c:v", "ffv1", file)
    sampled = sample_frames(file, 8)
    assert_same(sampled, sample_frames(base, 8))
    assert codes(sampled) == ["times-mended"]


@pytest.mark.parametrize(
    ("suffix", "seconds"), [("mkv", 1), ("mkv", 5), ("mkv", 30), ("mp4", -30), ("mp4", 1), ("mp4", 3600)]
)
def test_one_stray_time_moves_one_frame_to_where_it_belongs(
    base: Path, tmp_path: Path, suffix: str, seconds: int
) -> None:
    plain, stray = tmp_path / "plain.mp4", tmp_path / f"stray.{suffix}"
    settings = ("-bf", 2, "-x264-params", "keyint=12:b-adapt=0", "-use_editlist", 0)
    ffmpeg("-i", base, *X264, *settings, "-output_ts_offset", 40, plain)
    if suffix == "mkv":
        ffmpeg("-i", plain, "-c", "copy", "-bsf:v", f"setts=pts='if(eq(N,31),PTS+({seconds})/TB,PTS)'", stray)
    else:
        data = bytearray(plain.read_bytes())
        at = data.find(b"ctts", data.rfind(b"moov"))
        entry = at + 12 + 8 * (struct.unpack(">I", data[at + 8 : at + 12])[0] // 2) + 4
        data[at + 4] = 1  # signed offsets
        data[entry : entry + 4] = struct.pack(">i", 12800 * seconds)
        stray.write_bytes(data)
    sampled = sample_frames(stray, 8)
    assert_same(sampled, sample_frames(plain, 8))
    assert codes(sampled) == ["times-mended"]


@pytest.mark.parametrize(
    "codec",
    [
        ("mpeg4", "-bf", 2, "-q:v", 2),
        ("mpeg2video", "-bf", 2, "-q:v", 2),
        ("libx264", "-bf", 3, "-x264-params", "b-adapt=0:b-pyramid=normal"),
        ("libx264", "-bf", 0),
    ],
)
def test_frames_dropped_in_avi_keep_their_time(base: Path, tmp_path: Path, codec: tuple) -> None:
    files = [tmp_path / "drops.avi", tmp_path / "drops.mkv"]
    for file in files:
        drops = ("-vf", "select='lt(n,20)+not(mod(n,4))'", "-fps_mode", "vfr")
        ffmpeg("-i", base, *drops, "-c:v", *codec, file)
    avi, matroska = (sample_frames(file, 8) for file in files)
    assert_same(avi, matroska)
    assert avi.timestamps_seconds == pytest.approx([0.12, 0.4, 0.68, 0.96, 1.28, 1.44, 1.76, 2.08])


@pytest.mark.parametrize(("suffix", "b_frames"), [("mkv", 2), ("mp4", 3), ("mp4", 0)])
def test_the_last_frames_of_a_screen_recording_may_be_long(
    base: Path, tmp_path: Path, suffix: str, b_frames: int
) -> None:
    file = tmp_path / f"recording.{suffix}"
    pauses = ("-vf", "setpts='(N*0.04+gte(N,58)*60+gte(N,59)*60)/TB'", "-fps_mode", "vfr", "-enc_time_base", "1/1000")
    ffmpeg("-i", base, *pauses, *X264, "-bf", b_frames, file)
    sampled = sample_frames(file, 4)
    assert sampled.timestamps_seconds == pytest.approx([2.28, 2.28, 62.32, 62.32], abs=1e-2)
    assert codes(sampled) == []


def test_a_leap_that_the_format_means_is_kept_and_told(base: Path, tmp_path: Path) -> None:
    plain, file = tmp_path / "plain.mkv", tmp_path / "leap.mkv"
    ffmpeg("-i", base, *X264, "-bf", 0, plain)
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", "setts=ts='if(gte(N,58),TS+1000/TB,TS)'", file)
    sampled = sample_frames(file, 8)
    assert sampled.info.duration_seconds == pytest.approx(1002.4, abs=0.1)
    assert codes(sampled) == ["few-frames"]
    assert sampled.warnings[0].message == "the score rests on 1 of its 60 frames"


# --- damage, fields ---------------------------------------------------------------------------------------------------


def test_damage_in_hevc_is_noticed_with_its_consequences(base: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.ts"
    x265 = ("-c:v", "libx265", "-preset", "ultrafast", "-crf", 20, "-x265-params")
    ffmpeg("-i", base, *x265, "keyint=12:log-level=none:pools=1", whole)
    data = whole.read_bytes()
    lost = b"".join(data[at : at + 188] for at in range(0, len(data), 188) if at // 188 % 100 != 50)
    sampled = sample_frames(lost, 60)
    assert sampled.info.corrupt_frames > 0
    assert "damaged" in codes(sampled)
    # The lost packets may have held whole frames, so samples are found by their time.
    sound = {round(time, 2): frame for time, frame in zip(*_times_and_frames(whole), strict=True)}
    for time, frame in zip(sampled.timestamps_seconds, sampled.frames, strict=True):
        np.testing.assert_array_equal(frame, sound[round(time, 2)])


@pytest.mark.parametrize("checksum", [("-level", 3, "-slicecrc", 1), ("-level", 4, "-strict", -2, "-slicecrc", 2)])
def test_damage_that_only_a_checksum_tells_is_noticed(base: Path, tmp_path: Path, checksum: tuple) -> None:
    whole = tmp_path / "whole.avi"
    ffmpeg("-i", base, "-c:v", "ffv1", *checksum, "-g", 12, whole)
    sound = sample_frames(whole, 60)
    assert sound.info.corrupt_frames == 0
    data = bytearray(whole.read_bytes())
    data[len(data) // 2] ^= 4
    sampled = sample_frames(bytes(data), 60)
    assert sampled.info.corrupt_frames > 0
    assert codes(sampled) == ["damaged"]
    for time, frame in zip(sampled.timestamps_seconds, sampled.frames, strict=True):
        np.testing.assert_array_equal(frame, sound.frames[round(time * 25)])


def _times_and_frames(file: Path) -> tuple[tuple[float, ...], tuple[np.ndarray, ...]]:
    sampled = sample_frames(file, 60)
    return sampled.timestamps_seconds, sampled.frames


@pytest.mark.parametrize("codec", [("libx264", "-x264-params", "tff=1", "-crf", 5), ("mpeg2video", "-q:v", 2)])
def test_interlaced_video_is_deinterlaced(tmp_path: Path, codec: tuple) -> None:
    interlaced, whole = tmp_path / "interlaced.mkv", tmp_path / "whole.mkv"
    scene = "testsrc2=size=176x144:rate=50:duration=1.2,scroll=h=0.02,format=yuv420p"
    woven = ("-vf", "tinterlace=interleave_top,setfield=tff", "-flags", "+ilme+ildct")
    ffmpeg("-f", "lavfi", "-i", scene, *woven, "-c:v", *codec, interlaced)
    ffmpeg("-i", interlaced, "-vf", "bwdif=mode=0", "-c:v", "ffv1", whole)
    sampled = sample_frames(interlaced, 8)
    assert (sampled.info.field_order, sampled.info.is_deinterlaced) == ("top-first", True)
    assert_same(sampled, sample_frames(whole, 8))
    combed = sample_frames(interlaced, 8, keep_interlaced=True)
    assert (combed.info.field_order, combed.info.is_deinterlaced) == ("top-first", False)
    assert np.abs(combed.frames[3].astype(int) - sampled.frames[3]).mean() > 3


def test_fields_may_be_of_unlike_height(tmp_path: Path) -> None:
    file = tmp_path / "odd.mkv"
    scene = "testsrc2=size=64x48:rate=25:duration=0.2,crop=64:47:0:0:exact=1,format=yuv420p,setfield=bff"
    ffmpeg("-f", "lavfi", "-i", scene, "-c:v", "ffv1", "-flags", "+ildct", file)
    info = sample_frames(file, 2).info
    assert (info.height, info.field_order, info.is_deinterlaced) == (47, "bottom-first", True)


def test_interlaced_frames_that_are_too_small_stay_as_they_are() -> None:
    for size, pixel_format in (((720, 6), "yuv420p"), ((4, 16), "yuv420p"), ((16, 3), "gray")):
        assert deinterlaced(None, av.VideoFrame(*size, pixel_format), None) is None


def test_hdr_is_told(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "hdr.mkv"
    colors = "format=yuv420p10le,setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc"
    ffmpeg("-i", base, "-frames:v", 2, "-vf", colors, "-c:v", "ffv1", file)
    sampled = sample_frames(file, 1)
    assert codes(sampled) == ["hdr-as-coded"]
    assert sampled.info.color_primaries == "bt2020"


def test_the_shape_of_pixels_is_reported(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "anamorphic.mkv"
    ffmpeg("-i", base, "-frames:v", 2, "-vf", "setsar=16/15", "-c:v", "ffv1", file)
    assert sample_frames(file, 1).info.sample_aspect_ratio == "16:15"
