"""A TCAB's first lessons: pairs of single frames, patches that see all frequencies, and what the head starts from."""

import numpy as np
import pytest
import torch
from ablation import without_tcab
from accelerate import Accelerator
from clips import make_clip
from training_network import SMALLEST

from diffvqa_rt.models.diffvqa import random_network
from diffvqa_rt.training.frame_quality import (
    FramePairs,
    FrameQuality,
    FrameQualityObjective,
    grow,
    start_as_frequencies,
    start_from_frames,
    store_frames,
)
from diffvqa_rt.training.head import LabelledVideo
from diffvqa_rt.training.loop import Batch, FitConfig, StepBatches, fit
from diffvqa_rt.training.start import start_alike_everywhere, with_new_head

SIDE = SMALLEST.view_size


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three ladders of one scene that share its pristine clip, two of them without labels; other sizes, other bytes."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(7):
        (folder / f"{number}.mp4").write_bytes(make_clip(size=(96, 72), frames=3 + number))
    members = {"a/h264": (0, 1, 2), "a/freeze": (0, 3, 4), "a/banding": (0, 5, 6)}
    return [
        LabelledVideo(
            name=str(number), path=folder / f"{number}.mp4", ladder=ladder, severity=severity,
            label=90.0 - 10 * number if ladder == "a/h264" or not severity else None,
        )
        for ladder, numbers in members.items()
        for severity, number in enumerate(numbers)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def stored(videos, tmp_path_factory):
    path = tmp_path_factory.mktemp("frames") / "frames.npy"
    store_frames(videos, 2, path)
    return path


def test_a_file_in_two_ladders_is_stored_once(stored):
    kept = np.load(stored)
    assert kept.shape == (7, 2, 3, 72, 96) and kept.dtype == np.uint8


def test_a_pair_is_two_rungs_of_a_ladder_at_one_place(videos, stored):
    batch = FramePairs(videos, stored, batch=24, size=SIDE, seed=0)[3]
    assert batch["frames"].shape == (24, 3, SIDE, SIDE) and batch["unit"].tolist() == [i // 2 for i in range(24)]
    kept, seen = np.load(stored), set()
    for index in range(0, 24, 2):
        severities = batch["severity"][index : index + 2].tolist()
        labels = batch["label"][index : index + 2].tolist()
        # Of the ladder that damages time alone nothing is drawn; the other one has labels, or only its order.
        has_labels = all(label == 90 - 10 * severity for label, severity in zip(labels, severities, strict=True))
        rows = [severity if has_labels or not severity else 4 + severity for severity in severities]
        pictures = batch["frames"][index : index + 2]
        places = [place_of(picture, kept, row) for picture, row in zip(pictures, rows, strict=True)]
        assert severities[0] != severities[1] and places[0] == places[1]
        seen.add(has_labels)
    assert seen == {True, False}


def place_of(picture, kept, row):
    """(frame, top, left, mirrored) of a picture in a row of the stored frames."""
    pixels = np.rint((picture.numpy() + 1) * 127.5).astype(np.uint8)
    for frame in range(kept.shape[1]):
        for top in range(kept.shape[3] - SIDE + 1):
            for left in range(kept.shape[4] - SIDE + 1):
                square = kept[row, frame, :, top : top + SIDE, left : left + SIDE]
                for mirrored in (False, True):
                    if np.array_equal(pixels, square[..., ::-1] if mirrored else square):
                        return frame, top, left, mirrored
    raise AssertionError("the picture is none of the stored")


def test_a_step_has_the_same_pairs_whenever_it_is_asked_for(videos, stored):
    one, other = (FramePairs(videos, stored, batch=4, size=SIDE, seed=7) for _ in range(2))
    other[0]
    torch.testing.assert_close(one[5], other[5], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(one[5]["frames"], one[6]["frames"])


def test_an_odd_batch_has_no_pairs(videos, stored):
    with pytest.raises(ValueError, match="batch is 3; expected an even number"):
        FramePairs(videos, stored, batch=3, size=SIDE, seed=0)


def smooth(frames, reach):
    """A box of `reach` pixels a side, mirrored at the edges, over [B, 3, S, S]."""
    padded = torch.nn.functional.pad(frames, [reach // 2] * 4, mode="reflect")
    return torch.nn.functional.avg_pool2d(padded, reach, stride=1)


def test_patches_start_with_every_frequency_alike():
    torch.manual_seed(0)
    frames = smooth(torch.randn(4, 3, SIDE, SIDE), 5)
    learned = FrameQuality(SMALLEST)
    start_as_frequencies(learned.tcab.patch_embed.proj, frames)
    tokens = learned.tcab.patch_embed(frames[:, None]).flatten(0, 2)
    torch.testing.assert_close(tokens.mean(dim=0), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(tokens.std(dim=0), torch.ones(16), atol=1e-3, rtol=0)
    # No two outputs say the same.
    correlations = torch.corrcoef(tokens.T) - torch.eye(16)
    assert correlations.abs().max() < 0.9


class SharpAndBlurred(StepBatches):
    """Noise, and the same noise blurred, which is worse."""

    def __getitem__(self, step: int) -> Batch:
        sharp = torch.from_numpy(self.generator(step).normal(size=(4, 3, SIDE, SIDE))).float()
        both = torch.stack([sharp, smooth(sharp, 3) * 2], dim=1).flatten(0, 1)
        label = torch.tensor([90.0, 30.0]).repeat(4)
        return {"frames": both, "label": label, "severity": torch.tensor([0, 3] * 4), "unit": torch.arange(8) // 2}


def test_it_learns_that_blur_is_worse(tmp_path):
    torch.manual_seed(0)
    learned, batches = FrameQuality(SMALLEST), SharpAndBlurred(seed=0)
    start_as_frequencies(learned.tcab.patch_embed.proj, batches[1000]["frames"])
    config = FitConfig(steps=150, learning_rate=2e-2, weight_decay=0.0, schedule="cosine")
    fit(
        FrameQualityObjective(learned, SMALLEST), batches, config, tmp_path, describes={},
        accelerator=Accelerator(cpu=True),
    )  # fmt: skip
    with torch.no_grad():
        scores = learned(batches[2000]["frames"]).unflatten(0, (4, 2))
    sharp, blurred = scores[:, 0], scores[:, 1]
    assert (sharp > blurred + 0.3).all(), scores


def test_both_views_of_a_new_head_start_from_it():
    network = with_new_head(random_network(SMALLEST), SMALLEST, seed=1)
    before = network.head.semantic.tcab.temporal_pos_embedding.detach().clone()
    learned = FrameQuality(SMALLEST)
    start_from_frames(network, learned)
    for view in (network.head.semantic, network.head.distortion):
        assert torch.equal(view.tcab.patch_embed.proj.weight, learned.tcab.patch_embed.proj.weight)
        assert torch.equal(view.tcab.layers[0].mixer.A_b_log, learned.tcab.layers[0].mixer.A_b_log)
    time = network.head.semantic.tcab.temporal_pos_embedding
    torch.testing.assert_close(time, before + learned.tcab.temporal_pos_embedding)


def test_a_head_may_start_alike_everywhere():
    network = with_new_head(random_network(SMALLEST), SMALLEST, seed=1)
    width = SMALLEST.head.fused_channels * (SMALLEST.latent_size // 4) ** 2
    vectors = torch.rand(3, width + SMALLEST.head.tcab.width)
    moved = vectors.clone()
    # The second half of the places in front of the first.
    cells = moved[:, :width].unflatten(1, (SMALLEST.head.fused_channels, -1))
    moved[:, :width] = cells.roll(cells.shape[2] // 2, dims=2).flatten(1)
    mlp = network.head.distortion.mlp
    assert not torch.allclose(mlp(moved), mlp(vectors))
    start_alike_everywhere(network)
    torch.testing.assert_close(mlp(moved), mlp(vectors))


def test_a_head_without_a_tcab_takes_nothing():
    network = with_new_head(random_network(SMALLEST), without_tcab(SMALLEST), seed=1)
    before = {name: x.clone() for name, x in network.head.state_dict().items()}
    start_from_frames(network, FrameQuality(SMALLEST))
    assert all(torch.equal(x, before[name]) for name, x in network.head.state_dict().items())


def test_what_parts_of_views_taught_is_kept_for_whole_ones():
    torch.manual_seed(0)
    learned = FrameQuality(SMALLEST, across=2)
    assert learned(torch.randn(3, 3, SIDE // 2, SIDE // 2)).shape == (3, 2)
    grown = grow(learned, SMALLEST, across=2)
    assert grown(torch.randn(3, 3, SIDE, SIDE)).shape == (3, 2)
    side = SIDE // 2 // SMALLEST.head.tcab.patch_size
    places = grown.tcab.pos_embed[0, 1:].unflatten(0, (2 * side, 2 * side))
    for quarter in (places[:side, :side], places[side:, :side], places[:side, side:], places[side:, side:]):
        assert torch.equal(quarter.flatten(0, 1), learned.tcab.pos_embed[0, 1:])
    others = {name: x for name, x in learned.state_dict().items() if name != "tcab.pos_embed"}
    assert all(torch.equal(grown.state_dict()[name], x) for name, x in others.items())
    assert torch.equal(grown.tcab.pos_embed[0, 0], learned.tcab.pos_embed[0, 0])
