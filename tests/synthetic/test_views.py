"""Views that a set keeps, which scoring would cut, and the labels of the frames that it would sample."""

import hashlib

import numpy as np
import pytest

from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.metrics.diffvqa.views import cut_views as views_of_scoring
from diffvqa_rt.synthetic.clip_files import read_clip
from diffvqa_rt.synthetic.clip_table import read_manifest
from diffvqa_rt.synthetic.views import ViewsConfig, cut_views, places_of, read_views
from diffvqa_rt.synthetic.vmaf import measure_vmaf
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.crops import crop_region
from diffvqa_rt.video.texture import texture_places


@pytest.fixture
def clips(made):
    """Three of the set whose files are there: a photograph's, damaged all along and in part, and a video's."""
    by_name = {clip.file: clip for clip in read_manifest(made.out)}
    names = ("one-0/h264-3.mp4", "one-0/part_blur-4.mp4", "still-0/h264-5.mp4")
    return [by_name[f"scenes/{name}"] for name in names]


def test_sampled_frames_are_those_that_scoring_samples(made, clips):
    for clip in clips:
        sampled = sample_frames(made.out / clip.file, 8)
        frames = read_clip(made.out / clip.file)
        assert np.array_equal(np.stack(sampled.frames), frames[clip.sampled_frames])
        assert len(set(clip.sampled_frames)) == 8


def test_labels_are_vmaf_of_all_frames_and_of_the_sampled_ones(made, clips):
    for clip in clips[1:]:
        reference = made.out / f"scenes/{clip.scene}/reference.mp4"
        measured = measure_vmaf(made.out / clip.file, reference, ["vmaf_v1"])["vmaf_v1"]
        assert clip.label == pytest.approx(measured.mean(), abs=1e-3) and len(measured) == clip.frame_count
        assert clip.frame_labels["vmaf_v1"] == pytest.approx(measured[clip.sampled_frames].tolist(), abs=1e-2)


def test_kept_views_are_those_that_scoring_would_cut_at_the_same_place(made, clips):
    for clip in clips:
        frames = sample_frames(made.out / clip.file, 8).frames
        kept = read_views(made.out / clip.views)
        assert kept.shape == (4, 8, 3, 48, 48) and kept.dtype == np.uint8
        assert (made.out / clip.views).stat().st_size == clip.views_bytes
        seed = int.from_bytes(hashlib.sha256(f"0/views/{clip.scene}".encode()).digest()[:7], "big")
        both = views_of_scoring(frames, 48, seed, crops=2)
        assert np.array_equal(kept[0], both[0, ::2]) and np.array_equal(kept[1:3], both[:, 1::2])


def test_the_last_crop_is_where_the_pristine_clip_has_its_texture_in_all_of_its_versions(made, clips):
    for clip in clips:
        reference = sample_frames(made.out / f"scenes/{clip.scene}/reference.mp4", 8).frames
        (place,) = texture_places(reference[4], 48, 1)
        left, top, right, bottom = crop_region(clip.width, clip.height, 48, place)
        frames = np.stack(sample_frames(made.out / clip.file, 8).frames)[:, top:bottom, left:right]
        assert np.array_equal(read_views(made.out / clip.views)[3], np.moveaxis(frames, -1, 1))


def test_a_frame_smaller_than_a_view_is_scaled_up_as_scoring_does():
    frames = [np.random.default_rng(number).integers(0, 255, (40, 70, 3)).astype(np.uint8) for number in range(2)]
    config = ViewsConfig(frames=2, size=64, random_crops=3, texture_crops=0)
    places = places_of(frames, config, "key")
    seed = int.from_bytes(hashlib.sha256(b"key").digest()[:7], "big")
    both = views_of_scoring(frames, 64, seed, crops=3)
    kept = cut_views(frames, config, places)
    assert np.array_equal(kept[0], both[0, ::2]) and np.array_equal(kept[1:], both[:, 1::2])


def test_labels_of_a_clip_that_is_damaged_in_part_fall_in_that_part_alone(made):
    parts = [clip for clip in read_manifest(made.out) if clip.distortion == "part_blur" and clip.severity > 2]
    assert {clip.scene for clip in parts} == {"one-0", "two-0", "still-0"}
    for clip in parts:
        first, last = clip.steps[-1]["frames"]
        assert last - first == 4
        is_inside = np.array([first <= frame < last for frame in clip.sampled_frames])
        labels = np.array(clip.frame_labels["vmaf_v1"])
        # What is left of 100 is the loss of storage.
        assert labels[is_inside].max() < 65 < 87 < labels[~is_inside].min(), (clip.file, labels)


def test_views_that_are_not_there_are_a_sentence(tmp_path):
    with pytest.raises(SyntheticSetError, match=r"gone.npy cannot be read \(.*No such file.*\); make the set again"):
        read_views(tmp_path / "gone.npy")
    (tmp_path / "half.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(SyntheticSetError, match="half.npy cannot be read"):
        read_views(tmp_path / "half.npy")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"frames": 0}, "frames is 0; expected at least 1"),
        ({"size": 8}, "size is 8; expected at least 16"),
        ({"random_crops": -1}, "random_crops is -1"),
        ({"random_crops": 0, "texture_crops": 0}, "random_crops and texture_crops are 0; expected one crop at least"),
    ],
)
def test_views_that_make_no_sense_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        ViewsConfig(**change)
