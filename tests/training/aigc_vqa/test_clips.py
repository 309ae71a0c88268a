"""The clips that training sees: scoring's views, with the pieces from other places each time; and their prompts."""

import dataclasses

import numpy as np
import pytest
import torch
from prompted_network import SMALL
from prompted_opinions import PROMPTS, save_prompted_clips

from diffvqa_rt.errors import InputError, TrainingError, VideoDecodeError
from diffvqa_rt.evaluation.data_sets import read_table
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.aigc_vqa.metric import METRIC
from diffvqa_rt.metrics.aigc_vqa.presets import TINY_VOCABULARY
from diffvqa_rt.synthetic.labelled import LabelledVideo, videos_digest
from diffvqa_rt.text.wordpiece import WordPiece
from diffvqa_rt.training.aigc_vqa.clips import DRAWS, PromptedClips, with_opinions
from diffvqa_rt.training.data import videos_from_rows
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.opinions import OpinionBatches
from diffvqa_rt.video import sample_frames

WORDS = WordPiece.read(TINY_VOCABULARY, SMALL.text.vocabulary_sha256)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return videos_from_rows(read_table("csv", save_prompted_clips(tmp_path_factory.mktemp("clips"), 4)).rows)


def test_an_entry_is_what_scoring_sees_with_its_seed(videos):
    clips = PromptedClips(SMALL, videos, WORDS)
    for seed in (0, 5):
        entry = clips.read(CropOfVideo(videos[1].path, seed))
        frames = sample_frames(videos[1].path, SMALL.frames).frames
        views, _ = METRIC.prepare(SMALL, frames, Request(seed=seed, crops=1))
        assert all(np.array_equal(entry[name], views[name][0]) for name in ("fragments", "resized"))
        tokens = WORDS.encode(PROMPTS[1], SMALL.text.prompt_tokens)
        assert np.array_equal(entry["token_ids"], tokens.ids) and np.array_equal(entry["token_mask"], tokens.mask)


def test_the_pieces_are_from_other_places_each_epoch_and_the_same_when_asked_again(videos):
    clips = PromptedClips(SMALL, videos, WORDS)
    batches = OpinionBatches(videos, clips, batch=4, crops=DRAWS, processes=1, seed=0)
    assert batches.steps_per_epoch == 1
    first, again, later = (batches[step] for step in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    orders = [batch["label"].argsort() for batch in (first, later)]
    for name, is_same in (("resized", True), ("token_ids", True), ("fragments", False)):
        one, other = (batch[name][order] for batch, order in zip((first, later), orders, strict=True))
        assert torch.equal(one, other) == is_same
        if not is_same:
            assert all(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_without_words_there_are_no_prompts(videos):
    assert PromptedClips(SMALL, videos, None).read(CropOfVideo(videos[0].path)).keys() == {"fragments", "resized"}


def test_a_prompt_without_words_and_a_file_without_pictures_are_refused(videos, tmp_path):
    with pytest.raises(InputError, match="prompt is blank"):
        PromptedClips(SMALL, [dataclasses.replace(videos[0], prompt="\u200b")], WORDS)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        PromptedClips(SMALL, videos, WORDS).read(CropOfVideo(tmp_path / "broken.mp4"))


def test_videos_without_an_opinion_are_left_out_and_a_pristine_one_counts_once(tmp_path):
    """A synthetic set has it in all ladders of its scene, and faults in time without a label."""
    versions = [("sharp", 90.0, 0), ("blurred", 40.0, 3), ("dropped", None, 3)]
    ladders = [
        LabelledVideo(name=name, path=tmp_path / name, label=label, ladder=ladder, severity=severity)
        for ladder in ("s/blur", "s/drops")
        for name, label, severity in versions
        if severity == 0 or (name == "blurred") == (ladder == "s/blur")
    ]
    kept = with_opinions(ladders, needs_prompts=False)
    assert [(video.name, video.label, video.ladder) for video in kept] == [
        ("sharp", 90.0, None),
        ("blurred", 40.0, None),
    ]
    with pytest.raises(TrainingError, match="2 of 2 videos have no prompt, the first of them sharp; give the table"):
        with_opinions(ladders, needs_prompts=True)


def test_a_run_goes_on_with_the_same_prompts_alone(videos):
    others = [dataclasses.replace(videos[0], prompt="a blue ball"), *videos[1:]]
    assert videos_digest(others) != videos_digest(videos)
