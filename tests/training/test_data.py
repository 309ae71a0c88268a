"""Sides of a data set that training learns from and holds out, and what it refuses to learn from."""

import argparse
import shutil
from types import SimpleNamespace

import pytest
from image_sets import write_kadid_10k, write_spaq
from synthetic_clips import clip_of

from diffvqa_rt.errors import SyntheticSetError, TrainingError
from diffvqa_rt.evaluation.data_sets import read_table
from diffvqa_rt.evaluation.protocols import random_splits
from diffvqa_rt.synthetic.clip_table import write_manifest
from diffvqa_rt.training.data import parse_split, read_training_data, with_validation

COPIES = 5


@pytest.fixture
def kadid(tmp_path):
    """100 images of 20 references."""
    names = [f"I{content:02}_01_{level:02}.png" for content in range(1, 21) for level in range(1, COPIES + 1)]
    write_kadid_10k(tmp_path, {name: 1 + i / 30 for i, name in enumerate(names)})
    return tmp_path


def read(folder, split, name="kadid-10k"):
    return read_training_data(SimpleNamespace(data=(name, folder), split=split, split_seed=0))


@pytest.mark.parametrize(("split", "by_row"), [("3", False), ("image-3", True), ("video-3", True)])
def test_a_split_is_the_one_that_evaluation_tests_on(kadid, split, by_row):
    data = read(kadid, split)
    expected = random_splits(read_table("kadid-10k", kadid), by_row=by_row)[2]
    assert [video.name for video in data.held_out] == [row.name for row in expected.test]
    assert [video.name for video in data.train] == [row.name for row in expected.train]
    shares = with_validation(data, 10, 0)
    assert [len(side) for side in (shares.train, shares.validation, shares.held_out)] == [70, 10, 20]
    validated = {video.name[:3] for video in shares.validation}
    # Two references whole, or images of many.
    assert (len(validated) == 10 // COPIES) != by_row


def test_labels_are_high_for_good_images(tmp_path):
    write_kadid_10k(tmp_path, {"I01_01_01.png": 4.5, "I01_01_05.png": 1.5})
    assert [video.label for video in read(tmp_path, "all").train] == [4.5, 1.5]


def test_images_that_are_scored_at_another_size_are_refused(tmp_path):
    write_spaq(tmp_path, {"1.jpg": 50.0})
    with pytest.raises(TrainingError, match="SPAQ's images are scored with a short side of 512 pixels"):
        read(tmp_path, "all", "spaq")


@pytest.fixture
def synthetic(tmp_path):
    """A set of two scenes, one of them held out, whose files are there."""
    clips = [
        clip_of(scene, distortion, severity, split=split)
        for scene, split in (("a", "train"), ("b", "validation"))
        for distortion, severity in (("reference", 0), ("h264", 1), ("h264", 3))
    ]
    write_manifest(tmp_path, clips)
    for clip in clips:
        (tmp_path / clip.file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / clip.file).write_bytes(b"a clip")
    return tmp_path


def test_a_synthetic_set_is_split_by_content_already(synthetic):
    data = read(synthetic, "published", "synthetic")
    assert [video.path for video in data.train] == [
        synthetic / f"scenes/a/{name}.mp4" for name in ("reference-0", "h264-1", "h264-3")
    ]
    assert {video.content for video in data.held_out} == {"b"} and data.score_range == (0, 100)
    assert len(read(synthetic, "all", "synthetic").train) == 6
    with pytest.raises(TrainingError, match="a synthetic set is split by content already; --split 3 is for others"):
        read(synthetic, "3", "synthetic")


def test_a_synthetic_set_that_keeps_views_alone_says_how_to_make_one_that_keeps_files(synthetic):
    shutil.rmtree(synthetic / "scenes" / "a")
    for split in ("published", "all"):
        with pytest.raises(SyntheticSetError, match="not their files; make one with --keep-training-files"):
            read(synthetic, split, "synthetic")


@pytest.mark.parametrize("text", ["0", "11", "image-11", "image-", "image-all", "content-1"])
def test_a_split_that_is_none_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not published, all, or a number from 1 to 10"):
        parse_split(text)
