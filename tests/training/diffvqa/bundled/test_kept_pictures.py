"""Pictures and views that a synthetic set keeps, as training takes them."""

import numpy as np
import pytest
import torch

from diffvqa_rt.metrics.diffvqa.views import cut_views as views_of_scoring
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.synthetic.views import ViewsConfig, cut_views, write_views
from diffvqa_rt.training.diffvqa.bundled.kept_pictures import KeptPictures, draw_pictures, kept_views
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.video.crops import crop_places

LABELS = ((90.0, 80.0), None, (30.0, 20.0))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three clips of two frames and three views, of a level each: 40 · clip + 10 · view + frame. One has no labels."""
    folder = tmp_path_factory.mktemp("views")
    levels = np.arange(3)[:, None, None] * 40 + np.arange(3)[:, None] * 10 + np.arange(2)
    for number, level in enumerate(levels.astype(np.uint8)):
        write_views(folder / f"{number}.npy", np.broadcast_to(level[..., None, None, None], (3, 2, 3, 16, 16)))
    return [
        LabelledVideo(name=str(number), path=folder / f"{number}.npy", label=None, frame_labels=labels)
        for number, labels in enumerate(LABELS)
    ]


def test_pictures_are_of_all_clips_views_and_frames_and_have_the_labels_of_crops(videos):
    calls = []
    pictures, labels = draw_pictures(videos, 200, 5, lambda done, count: calls.append((done, count)))
    assert pictures.shape == (200, 3, 16, 16) and pictures.dtype == np.uint8 and calls[-1] == (200, 200)
    drawn = pictures[:, 0, 0, 0].astype(int)
    assert set(drawn) == {40 * clip + 10 * view + frame for clip in range(3) for view in range(3) for frame in range(2)}
    for level, label in zip(drawn, labels, strict=True):
        clip, view, frame = level // 40, level % 40 // 10, level % 10
        # In the whole frame's view, a large picture's damage hardly shows.
        is_known = view > 0 and LABELS[clip] is not None
        assert label == LABELS[clip][frame] if is_known else np.isnan(label)


def test_the_seed_decides_the_pictures(videos):
    one, again, other = (draw_pictures(videos, 20, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_a_step_gives_some_pictures_with_their_labels(tmp_path):
    pictures = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 3, 16, 16))
    np.save(tmp_path / "pictures.npy", pictures)
    np.save(tmp_path / "labels.npy", np.arange(10, dtype=np.float32))
    batches = KeptPictures(tmp_path / "pictures.npy", labels=tmp_path / "labels.npy", batch=4, seed=0)
    batch = batches[3]
    assert batch["pictures"].shape == (4, 3, 16, 16) and batch["label"].dtype == torch.float32
    levels = (batch["pictures"][:, 0, 0, 0] + 1) * 127.5
    assert torch.allclose(levels, 100 * batch["label"], atol=1e-4) and len(set(levels.tolist())) == 4
    assert torch.equal(batches[3]["pictures"], batch["pictures"])
    assert not torch.equal(batches[4]["pictures"], batch["pictures"])
    assert set(KeptPictures(tmp_path / "pictures.npy", batch=4, seed=0)[3]) == {"pictures"}


def test_kept_views_are_in_the_order_in_which_scoring_gives_them(tmp_path):
    frames = [np.random.default_rng(number).integers(0, 255, (90, 70, 3)).astype(np.uint8) for number in range(2)]
    config = ViewsConfig(frames=2, size=32, random_crops=3, texture_crops=0)
    write_views(tmp_path / "a.npy", cut_views(frames, config, crop_places(7, 3)))
    for crop, expected in enumerate(views_of_scoring(frames, 32, seed=7, crops=3)):
        views = kept_views(CropOfVideo(tmp_path / "a.npy", crop))
        assert views.dtype == torch.uint8 and np.array_equal(views.numpy(), expected)
