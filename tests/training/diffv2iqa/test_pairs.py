"""Pairs for the restorer: crops that show the same place, distorted and pristine, the same ones whenever asked for."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import WRITERS
from PIL import Image
from restoring_network import dead_leaves, save_stills

from diffvqa_rt.errors import MosTableError, TrainingError
from diffvqa_rt.synthetic.distortions import STILL_LADDERS
from diffvqa_rt.training.diffv2iqa.pairs import Pair, PairBatches, pairs_from, read_pairs

SIDE = 32


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    return save_stills(tmp_path_factory.mktemp("stills"), 3)


def batches_of(pairs, **changes):
    return PairBatches(pairs, **{"batch": 8, "per_pair": 2, "side": SIDE, "seed": 3} | changes)


def pixels(tensor):
    return ((tensor + 1) * 127.5).round().to(torch.int)


def test_a_step_is_the_same_crops_whenever_asked_and_other_steps_are_others(stills):
    batches = batches_of(pairs_from(stills))
    first = batches[5]
    assert set(first) == {"x", "reference"}
    for crops in first.values():
        assert crops.shape == (8, 3, SIDE, SIDE) and crops.dtype == torch.float32
        assert crops.min() >= -1 and crops.max() <= 1
    again, other, seeded = batches_of(pairs_from(stills))[5], batches[6], batches_of(pairs_from(stills), seed=4)[5]
    for name, crops in first.items():
        assert torch.equal(batches[5][name], crops) and torch.equal(again[name], crops)
        assert not torch.equal(other[name], crops) and not torch.equal(seeded[name], crops)


@pytest.mark.parametrize(("batch", "per_pair", "processes"), [(8, 4, 2), (6, 2, 3), (4, 4, 4)])
def test_processes_share_the_crops_that_one_would_see(stills, batch, per_pair, processes):
    settings = {"batch": batch, "per_pair": per_pair}
    whole = batches_of(pairs_from(stills), **settings)[5]
    parts = [batches_of(pairs_from(stills), **settings, processes=processes).on_rank(r)[5] for r in range(processes)]
    for name in whole:
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])


def test_a_crop_shows_the_reference_untouched_and_one_fault_of_the_catalogue(stills):
    """Blurring and its like change a crop; the reference stays a piece of its picture, or of that mirrored."""
    picture = np.moveaxis(np.asarray(Image.open(stills[0])), -1, 0).astype(int)
    batch = batches_of([Pair(stills[0])], batch=16)[0]
    windows = np.lib.stride_tricks.sliding_window_view(picture, (SIDE, SIDE), axis=(1, 2))
    mirrored = 0
    for reference in pixels(batch["reference"]).numpy():
        matches = [
            (windows == candidate[:, None, None]).all(axis=(0, 3, 4)).any() for candidate in both_ways(reference)
        ]
        assert any(matches)
        mirrored += matches[1]
    assert 2 <= mirrored <= 14
    is_distorted = (batch["x"] != batch["reference"]).flatten(1).any(1)
    assert is_distorted.sum() >= 12


def both_ways(crop):
    return crop, crop[:, :, ::-1]


def test_a_reference_is_now_and_then_its_own_pair(stills):
    """As often as any of the ladder's five severities (D13)."""
    batches = batches_of([Pair(stills[0])], batch=60, ladders=[STILL_LADDERS["gaussian_noise"]])
    same = torch.cat([(batches[s]["x"] == batches[s]["reference"]).flatten(1).all(1) for s in range(5)])
    assert same.float().mean() == pytest.approx(1 / 6, abs=0.06)


def test_a_fault_reaches_over_a_crops_border(stills):
    """A crop is cut out of a blurred picture, and not blurred by itself, so that its border shows what lies beyond."""
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:, ::2] = 255
    path = stills[0].with_name("stripes.png")
    Image.fromarray(picture).save(path)
    batches = batches_of([Pair(path)], batch=32, ladders=[STILL_LADDERS["gaussian_blur"]])
    blurred = [x for x, flatness in ((x, x[:, :, 8:-8].std()) for x in batches[0]["x"]) if flatness < 0.1]
    away = [x for x in blurred if (x[:, :, 0].mean() - x[:, :, 16].mean()).abs() < 0.05]
    assert len(away) > 0.7 * len(blurred) > 5


@pytest.fixture
def table(tmp_path):
    """Distorted pictures that are 20 levels brighter."""
    rows = ["reference,distorted"]
    for number in range(2):
        picture = dead_leaves(number, 64) // 2
        Image.fromarray(picture).save(tmp_path / f"r{number}.png")
        Image.fromarray(picture + 20).save(tmp_path / f"d{number}.png")
        rows.append(f"r{number}.png,d{number}.png")
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(rows))
    return path


def test_files_of_a_table_are_cropped_and_mirrored_alike(table):
    pairs = read_pairs(table)
    assert [(pair.reference.name, pair.distorted.name) for pair in pairs] == [
        ("r0.png", "d0.png"), ("r1.png", "d1.png"), ("r0.png", "r0.png"), ("r1.png", "r1.png"),
    ]  # fmt: skip
    batch = batches_of(pairs, batch=16)[0]
    difference = (pixels(batch["x"]) - pixels(batch["reference"])).flatten(1)
    assert set(difference.unique().tolist()) == {0, 20}
    assert torch.equal(difference.amin(1), difference.amax(1))


def test_a_data_set_with_references_is_pairs(tmp_path):
    WRITERS["pipal"](tmp_path / "pipal")
    WRITERS["koniq-10k"](tmp_path / "koniq")
    with pytest.raises(TrainingError, match=r"the reference .*Train_Ref/A0001.bmp is not there"):
        pairs_from([Path(f"pipal={tmp_path / 'pipal'}")])
    for name in ("A0001.bmp", "A0002.bmp"):
        (tmp_path / "pipal/Train_Ref").mkdir(exist_ok=True)
        (tmp_path / "pipal/Train_Ref" / name).write_bytes(b"")
    pairs = pairs_from([Path(f"pipal={tmp_path / 'pipal'}")])
    assert [(pair.reference.name, pair.distorted.name) for pair in pairs] == [
        ("A0001.bmp", "A0001_00_00.bmp"),
        ("A0001.bmp", "A0001_06_20.bmp"),
        ("A0002.bmp", "A0002_00_00.bmp"),
        ("A0001.bmp", "A0001.bmp"),
        ("A0002.bmp", "A0002.bmp"),
    ]
    with pytest.raises(TrainingError, match="KonIQ-10k has no references"):
        pairs_from([Path(f"koniq-10k={tmp_path / 'koniq'}")])


def test_tables_and_folders_go_together(table, stills):
    pairs = pairs_from([table, stills[0], stills[0].parent])
    assert len(pairs) == 4 + len(list(stills[0].parent.iterdir()))


def test_a_picture_smaller_than_a_crop_is_scaled_up(tmp_path):
    Image.fromarray(np.full((20, 10, 3), 77, np.uint8)).save(tmp_path / "small.png")
    batch = batches_of([Pair(tmp_path / "small.png", tmp_path / "small.png")])[0]
    assert batch["x"].shape[2:] == (SIDE, SIDE) and (pixels(batch["x"]) == 77).all()


def test_what_cannot_be_decoded_is_named_once_and_another_is_drawn(stills, tmp_path, caplog):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\0" * 1000)
    batches = batches_of([Pair(broken), Pair(stills[0])])
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            assert batches[step]["x"].shape == (8, 3, SIDE, SIDE)
    assert len(caplog.records) == 1 and "broken.png" in caplog.text
    with pytest.raises(TrainingError, match=r"20 pairs in a row cannot be used, the last of them .*broken.png"):
        batches_of([Pair(broken)])[0]


def test_a_table_that_is_none_is_one_sentence(table, tmp_path):
    (tmp_path / "gone.csv").write_text("reference,distorted\nr0.png,gone.png\n")
    with pytest.raises(TrainingError, match=r"gone.csv, line 2: the picture .*gone.png is not there"):
        read_pairs(tmp_path / "gone.csv")
    (tmp_path / "empty.csv").write_text("reference,distorted\n")
    with pytest.raises(TrainingError, match="has no rows; expected a reference and a distorted picture in each"):
        read_pairs(tmp_path / "empty.csv")
    (tmp_path / "other.csv").write_text("video,mos\n")
    with pytest.raises(MosTableError, match="expected one column 'reference'"):
        read_pairs(tmp_path / "other.csv")


def test_a_batch_that_cannot_be_shared_is_refused(stills):
    with pytest.raises(ValueError, match="batch is 8, of all processes together; expected a multiple of 3"):
        batches_of(pairs_from(stills), processes=3)
    with pytest.raises(ValueError, match=r"batch is 8; expected a multiple of per_pair \(3\)"):
        batches_of(pairs_from(stills), per_pair=3)


def test_a_pair_of_two_sizes_is_left_out_and_named_once(tmp_path, caplog):
    for name, side in (("good", 90), ("small", 80)):
        Image.new("RGB", (side, side), (90, 120, 60)).save(tmp_path / f"{name}.png")
    good, bad = (Pair(tmp_path / "good.png", tmp_path / f"{name}.png") for name in ("good", "small"))
    batches = batches_of([good, bad])
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            assert batches[step]["x"].shape == (8, 3, SIDE, SIDE)
    (told,) = [record.message for record in caplog.records]
    assert "good.png is of 90×90 pixels and" in told and "small.png of 80×80; expected the same size" in told
