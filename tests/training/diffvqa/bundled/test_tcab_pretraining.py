"""A TCAB's training stages: pairs of versions of a scene, and patches that see all frequencies."""

import itertools

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.lib.stride_tricks import sliding_window_view
from training_network import SMALLEST

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.synthetic.views import write_views
from diffvqa_rt.training.diffvqa.bundled.tcab_pretraining import (
    ReadTcab,
    ReadTcabObjective,
    VersionPairs,
    grow,
    start_as_frequencies,
)
from diffvqa_rt.training.loop import Batch, FitConfig, StepBatches, fit

SIDE = SMALLEST.view_size


@pytest.fixture(scope="module")
def kept():
    """Views of seven versions of a scene, [7, 3, 2, 3, 80, 80]: noise, grey in frame 0, of faint colours in frame 1."""
    views = np.random.default_rng(0).integers(100, 150, (7, 3, 2, 3, 80, 80)).astype(np.uint8)
    views[:, :, 0] = views[:, :, 0, :1]
    return views


@pytest.fixture(scope="module")
def videos(kept, tmp_path_factory):
    """Three ladders of one scene that share its pristine clip, two of them without labels."""
    folder = tmp_path_factory.mktemp("views")
    for number, views in enumerate(kept):
        write_views(folder / f"{number}.npy", views)
    members = {"a/h264": (0, 1, 2), "a/freeze": (0, 3, 4), "a/banding": (0, 5, 6)}
    return [
        LabelledVideo(
            name=str(number), path=folder / f"{number}.npy", label=None, ladder=ladder, severity=severity,
            frame_labels=labels_of(severity) if ladder == "a/h264" or not severity else None,
        )
        for ladder, numbers in members.items()
        for severity, number in enumerate(numbers)
    ]  # fmt: skip


def labels_of(severity):
    return 90.0 - 10 * severity, 80.0 - 10 * severity


def luma(pixels):
    return np.tensordot((0.299, 0.587, 0.114), pixels, axes=(0, -3))


def find(picture, severity, kept):
    """A picture's [3, SIDE, SIDE] ladder and place, (view, frame, top, left, mirrored, quarters), found by its luma."""
    shown = luma((picture.numpy() + 1) * 127.5)
    for row, ladder in enumerate(("h264", "freeze", "banding")) if severity else [(0, "pristine")]:
        squares = sliding_window_view(luma(kept[2 * row + severity]), (SIDE, SIDE), axis=(2, 3))
        for mirrored, quarters in itertools.product((False, True), range(4)):
            square = np.rot90(shown, -quarters)
            square = square[:, ::-1] if mirrored else square
            for place in np.argwhere(np.abs(squares[..., 0, 0] - square[0, 0]) < 1e-2):
                if np.allclose(squares[tuple(place)], square, atol=1e-2):
                    return ladder, (*place.tolist(), mirrored, quarters)
    raise AssertionError("the picture is none of the kept")


def test_a_pair_is_two_rungs_of_a_ladder_at_one_place(videos, kept):
    batch = VersionPairs(videos, batch=16, frames=1, size=SIDE, seed=0)[3]
    assert batch["frames"].shape == (16, 1, 3, SIDE, SIDE) and batch["unit"].tolist() == [i // 2 for i in range(16)]
    assert (batch["severity"][::2] != batch["severity"][1::2]).all()
    found = [find(*pair, kept) for pair in zip(batch["frames"][:, 0], batch["severity"].tolist(), strict=True)]
    for (ladder, place), (other, other_place) in zip(found[::2], found[1::2], strict=True):
        assert place == other_place and (ladder == other or "pristine" in (ladder, other))
    views, frames, _, _, mirrored, quarters = (set(x) for x in zip(*(place for _, place in found), strict=True))
    # Not the whole frame, which is the first of the views.
    assert views == {1, 2} and frames == {0, 1} and mirrored == {False, True} and len(quarters) > 2
    # Of the ladder that damages time alone nothing is drawn.
    assert {ladder for ladder, _ in found} == {"h264", "banding", "pristine"}


def test_labels_are_of_the_frame_and_missing_where_only_the_order_is_known(videos, kept):
    batch = VersionPairs(videos, batch=16, frames=1, size=SIDE, seed=0)[3]
    rows = zip(batch["frames"][:, 0], batch["severity"].tolist(), batch["frame_labels"], strict=True)
    for picture, severity, label in rows:
        ladder, (_, frame, *_) = find(picture, severity, kept)
        assert label.shape == (1,) and (label.isnan() if ladder == "banding" else label == labels_of(severity)[frame])


def test_grey_stays_grey_and_colours_become_others(videos, kept):
    batch = VersionPairs(videos, batch=16, frames=1, size=SIDE, seed=0)[3]
    for picture, severity in zip(batch["frames"][:, 0], batch["severity"].tolist(), strict=True):
        is_grey = find(picture, severity, kept)[1][1] == 0
        assert torch.allclose(picture, picture[:1].expand(3, -1, -1), atol=1e-5) == is_grey


def test_pairs_of_clips_have_all_ladders_and_their_frames_in_order(videos, kept):
    batch = VersionPairs(videos, batch=16, frames=2, size=SIDE, seed=0)[3]
    assert batch["frames"].shape == (16, 2, 3, SIDE, SIDE)
    ladders = set()
    for clip, severity, labels in zip(batch["frames"], batch["severity"].tolist(), batch["frame_labels"], strict=True):
        (ladder, first), (_, second) = (find(picture, severity, kept) for picture in clip)
        assert (first[1], second[1]) == (0, 1) and (first[0], first[2:]) == (second[0], second[2:])
        ladders.add(ladder)
        assert tuple(labels.tolist()) == labels_of(severity) or labels.isnan().all() == (
            ladder in ("freeze", "banding")
        )
    assert ladders == {"h264", "freeze", "banding", "pristine"}


def test_a_step_has_the_same_pairs_whenever_it_is_asked_for(videos):
    one, other = (VersionPairs(videos, batch=4, frames=1, size=SIDE, seed=7) for _ in range(2))
    other[0]
    torch.testing.assert_close(one[5], other[5], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(one[5]["frames"], one[6]["frames"])


def test_an_odd_batch_has_no_pairs(videos):
    with pytest.raises(ValueError, match="batch is 3; expected an even number"):
        VersionPairs(videos, batch=3, frames=1, size=SIDE, seed=0)


def test_views_of_fewer_frames_are_named(videos):
    with pytest.raises(TrainingError, match=r"0.npy has 2 frames, and 3 are needed; make the set again"):
        VersionPairs(videos, batch=2, frames=3, size=SIDE, seed=0)


def smooth(frames, reach):
    """A box of `reach` pixels a side, mirrored at the edges, over [B, 3, S, S]."""
    padded = torch.nn.functional.pad(frames, [reach // 2] * 4, mode="reflect")
    return torch.nn.functional.avg_pool2d(padded, reach, stride=1)


def test_patches_start_with_every_frequency_alike():
    torch.manual_seed(0)
    frames = smooth(torch.randn(4, 3, SIDE, SIDE), 5)
    learned = ReadTcab(SMALLEST, frames=1)
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
        both = torch.stack([sharp, smooth(sharp, 3) * 2], dim=1).flatten(0, 1)[:, None]
        labels = torch.tensor([90.0, 30.0]).repeat(4)[:, None]
        severity = torch.tensor([0, 3] * 4)
        return {"frames": both, "frame_labels": labels, "severity": severity, "unit": torch.arange(8) // 2}


def test_it_learns_that_blur_is_worse(tmp_path):
    torch.manual_seed(0)
    learned, batches = ReadTcab(SMALLEST, frames=1), SharpAndBlurred(seed=0)
    start_as_frequencies(learned.tcab.patch_embed.proj, batches[1000]["frames"][:, 0])
    config = FitConfig(steps=150, learning_rate=2e-2, weight_decay=0.0, schedule="cosine")
    fit(
        ReadTcabObjective(learned, SMALLEST), batches, config, tmp_path, describes={},
        accelerator=Accelerator(cpu=True),
    )  # fmt: skip
    with torch.no_grad():
        scores = learned(batches[2000]["frames"]).unflatten(0, (4, 2))
    sharp, blurred = scores[:, 0], scores[:, 1]
    assert (sharp > blurred + 0.3).all(), scores


def test_what_parts_of_single_frames_taught_is_kept_for_whole_clips():
    torch.manual_seed(0)
    learned = ReadTcab(SMALLEST, frames=1, across=2)
    assert learned(torch.randn(3, 1, 3, SIDE // 2, SIDE // 2)).shape == (3, 2, 1)
    grown = grow(learned, SMALLEST, frames=2, across=1)
    assert grown(torch.randn(3, 2, 3, SIDE, SIDE)).shape == (3, 2, 2)
    side = SIDE // 2 // SMALLEST.head.tcab.patch_size
    places = grown.tcab.pos_embed[0, 1:].unflatten(0, (2 * side, 2 * side))
    for quarter in (places[:side, :side], places[side:, :side], places[:side, side:], places[side:, side:]):
        assert torch.equal(quarter.flatten(0, 1), learned.tcab.pos_embed[0, 1:])
    for time in grown.tcab.temporal_pos_embedding[0]:
        assert torch.equal(time, learned.tcab.temporal_pos_embedding[0, 0])
    # Each frame's score is read as that of the one frame was.
    assert torch.equal(grown.of_token.weight, learned.of_token.weight.expand(2, -1))
    repeated = ("tcab.pos_embed", "tcab.temporal_pos_embedding", "of_token.weight", "of_token.bias")
    others = {name: x for name, x in learned.state_dict().items() if name not in repeated}
    assert all(torch.equal(grown.state_dict()[name], x) for name, x in others.items())
    assert torch.equal(grown.tcab.pos_embed[0, 0], learned.tcab.pos_embed[0, 0])
