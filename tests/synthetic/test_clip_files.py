"""The synthetic set's clips as files, and the labels that VMAF gives them."""

import os
import re
import sys
from fractions import Fraction
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from clips import painting

from diffvqa_rt.errors import SyntheticSetError, VideoDecodeError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.synthetic import camera, vmaf
from diffvqa_rt.synthetic.clip_files import CODECS, read_clip, write_clip
from diffvqa_rt.synthetic.distortions import LADDERS, distort
from diffvqa_rt.synthetic.vmaf import MODELS, ffmpeg_version, measure_vmaf, models_version


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """A clip that is hardly larger than what VMAF version 1 measures at all."""
    path = tmp_path_factory.mktemp("pristine") / "reference.mp4"
    frames, _ = camera.film(painting(5, 720, 480), (256, 160), 10, 0.4, 2.0, np.random.default_rng(1))
    write_clip(path, frames, Fraction(24), crf=5)
    return path


@pytest.mark.parametrize("name", [name for name, ladder in LADDERS.items() if ladder.label == "vmaf_v1"])
def test_labels_fall_with_severity(ffmpeg, pristine, tmp_path, name):
    frames, labels = read_clip(pristine), []
    for severity in (1, 3, 5):
        distorted = distort(frames, LADDERS[name], severity, "0/a")
        path = tmp_path / f"{severity}.mp4"
        write_clip(path, distorted.frames, Fraction(24), codec=distorted.codec, crf=distorted.crf or 12)
        labels.append(measure_vmaf(path, pristine, ["vmaf_v1"])["vmaf_v1"].mean())
    assert (np.diff(labels) < -2).all(), labels


def test_vmaf_is_of_each_frame_by_each_of_the_models(ffmpeg, pristine, tmp_path):
    frames = read_clip(pristine).copy()
    frames[4] = distort(frames[4:5], LADDERS["gaussian_blur"], 4, "0/a").frames[0]
    write_clip(tmp_path / "one.mp4", frames, Fraction(24))
    measured = measure_vmaf(tmp_path / "one.mp4", pristine, list(MODELS))
    assert list(measured) == ["vmaf_v1", "vmaf", "vmaf_neg"]
    for values in measured.values():
        assert values.shape == (10,) and values.argmin() == 4
        assert values[4] < 60 < 80 < np.delete(values, 4).min() <= values.max() <= 100


def test_vmaf_of_a_clip_with_itself_is_high_and_version_1_does_not_reward_sharpening(ffmpeg, pristine, tmp_path):
    """Why all is labelled by version 1."""
    itself = measure_vmaf(pristine, pristine, ["vmaf_v1", "vmaf"])
    assert itself["vmaf_v1"].mean() == 100 and itself["vmaf"].mean() > 95
    sharper = distort(read_clip(pristine), LADDERS["sharpening"], 2, "0/a")
    write_clip(tmp_path / "sharper.mp4", sharper.frames, Fraction(24))
    measured = measure_vmaf(tmp_path / "sharper.mp4", pristine, ["vmaf_v1", "vmaf"])
    assert measured["vmaf"].mean() > measured["vmaf_v1"].mean() + 10


def test_vmaf_that_cannot_be_measured_is_a_sentence(ffmpeg, pristine, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    with pytest.raises(SyntheticSetError, match="VMAF of broken.mp4 cannot be measured; ffmpeg said: "):
        measure_vmaf(tmp_path / "broken.mp4", pristine)
    with pytest.raises(ValueError, match="models has fog; expected some of vmaf_v1, vmaf, vmaf_neg"):
        measure_vmaf(pristine, pristine, ["vmaf", "fog"])


def test_pictures_that_are_too_small_for_version_1_are_refused(ffmpeg, tmp_path):
    write_clip(tmp_path / "small.mp4", np.zeros((3, 200, 200, 3), np.uint8), Fraction(24))
    sentence = "none of its pictures of 200x200; version 1 takes 160x216 and larger"
    with pytest.raises(SyntheticSetError, match=f"VMAF of small.mp4 cannot be measured: libvmaf compared {sentence}"):
        measure_vmaf(tmp_path / "small.mp4", tmp_path / "small.mp4", ["vmaf_v1"])


@pytest.fixture(scope="module")
def shorter(pristine, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shorter") / "shorter.mp4"
    write_clip(path, read_clip(pristine)[:7], Fraction(24))
    return path


def test_vmaf_compares_all_frames_of_both_or_none(ffmpeg, pristine, shorter):
    """Left to itself, libvmaf compares the shorter clip's last frame again and again."""
    with pytest.raises(SyntheticSetError, match=r"of shorter.mp4 .* it has 7 frames, and reference.mp4 has 10"):
        measure_vmaf(shorter, pristine)
    with pytest.raises(SyntheticSetError, match=r"of reference.mp4 .* it has 10 frames, and shorter.mp4 has 7"):
        measure_vmaf(pristine, shorter)


def test_vmaf_of_pictures_of_another_size_is_refused_by_both_sizes(ffmpeg, pristine, tmp_path):
    write_clip(tmp_path / "small.mp4", read_clip(pristine)[:, ::2, ::2], Fraction(24))
    with pytest.raises(SyntheticSetError, match=r"its pictures are 128x80, and those of reference.mp4 are 256x160"):
        measure_vmaf(tmp_path / "small.mp4", pristine)


def test_vmaf_of_a_damaged_clip_is_refused_though_ffmpeg_patches_it_up(ffmpeg, pristine, tmp_path):
    content = bytearray(pristine.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 4] = b"\x55" * (len(content) // 4)
    (tmp_path / "damaged.mp4").write_bytes(content)
    with pytest.raises(SyntheticSetError, match="VMAF of damaged.mp4 cannot be measured"):
        measure_vmaf(tmp_path / "damaged.mp4", pristine)


def test_an_ffmpeg_that_cannot_be_run_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "gone"))
    for measure in (ffmpeg_version, lambda: measure_vmaf(tmp_path / "a.mp4", tmp_path / "b.mp4")):
        with pytest.raises(SyntheticSetError, match=r"gone cannot be run as ffmpeg .* see IMAGEIO_FFMPEG_EXE"):
            measure()


def test_without_imageio_ffmpeg_the_labels_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(SyntheticSetError, match=re.escape(needs_package("VMAF", "imageio-ffmpeg", "train"))):
        ffmpeg_version()


def test_without_the_package_of_the_models_the_labels_say_what_to_install(ffmpeg, monkeypatch, pristine):
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "ffmpeg_quality_metrics", None)
    monkeypatch.setattr(vmaf, "version", absent)
    for ask in (models_version, lambda: measure_vmaf(pristine, pristine, ["vmaf_v1"])):
        with pytest.raises(
            SyntheticSetError, match=re.escape(needs_package("VMAF v1", "ffmpeg-quality-metrics", "train"))
        ):
            ask()
    # The older models are in ffmpeg.
    assert measure_vmaf(pristine, pristine)["vmaf"].mean() > 95


@pytest.mark.parametrize("codec", [None, *CODECS])
def test_a_clip_file_has_the_same_bytes_again_whatever_memory_held_before_and_reads_back(tmp_path, codec):
    picture = np.asarray(painting(3, 160, 80))
    frames = np.stack([picture[:56, 2 * t : 2 * t + 96] for t in range(12)])
    generator, encodes = np.random.default_rng(0), set()
    for _ in range(12):
        # Left behind for the next encode to find, at places that change.
        held = [np.full(int(2 ** generator.uniform(6, 21)), generator.integers(255), np.uint8) for _ in range(40)]
        held = held[::2]
        write_clip(tmp_path / "a.mp4", frames, Fraction(25), codec=codec, crf=30)
        encodes.add((tmp_path / "a.mp4").read_bytes())
    assert len(encodes) == 1
    write_clip(tmp_path / "b.mp4", frames, Fraction(25), codec=codec, crf=12)
    # Chroma is halved; the luma's error is the codec's.
    luma = np.abs((read_clip(tmp_path / "b.mp4").astype(float) - frames) @ np.array([0.299, 0.587, 0.114]))
    assert luma.shape == (12, 56, 96) and luma.mean() < 3


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_a_clip_that_decodes_in_part_is_refused(tmp_path, codec):
    path = tmp_path / "a.mp4"
    write_clip(path, np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8), Fraction(24), codec=codec)
    content = path.read_bytes()
    half = len(content) // 2  # of the pictures; what describes them is at the end
    path.write_bytes(content[:half] + bytes(len(content) // 4) + content[half + len(content) // 4 :])
    with pytest.raises(VideoDecodeError, match=r"a.mp4 .*; make it again"):
        read_clip(path)


class Watched(np.ndarray):
    """Frames; how the process's threads are scheduled is written down before each is taken."""

    seen: set[int]

    def __iter__(self):
        for frame in super().__iter__():
            self.seen |= {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
            yield np.asarray(frame)


@pytest.mark.skipif(os.geteuid() != 0, reason="SVT-AV1 asks for real-time threads only as root")
def test_no_encoder_takes_the_machine_from_others(tmp_path):
    for codec in CODECS:
        frames = np.zeros((10, 64, 96, 3), np.uint8).view(Watched)
        frames.seen = set()
        write_clip(tmp_path / "a.mp4", frames, Fraction(24), codec=codec, crf=40)
        assert frames.seen == {os.SCHED_OTHER} and os.sched_getscheduler(0) == os.SCHED_OTHER, codec


def test_an_encoder_that_refuses_is_named(tmp_path):
    with pytest.raises(SyntheticSetError, match="a.mp4 cannot be encoded by libx264"):
        write_clip(tmp_path / "a.mp4", np.zeros((2, 57, 95, 3), np.uint8), Fraction(25))
    assert not (tmp_path / "a.mp4").exists()
