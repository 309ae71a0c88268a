"""Training the branches: squared error to shares of the range, four pictures mirrored alike, encoders as they were."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from restoring_network import SMALLEST

from diffvqa_rt.models.diffv2iqa.network import random_network
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.training.diffv2iqa.branches import (
    BranchesObjective,
    agreement_line,
    predict_pictures,
    with_new_branches,
)
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.loop import FitConfig, fit
from diffvqa_rt.training.opinions import ORDER_MARGIN, OpinionBatches

NAMES = ("x", "y_0", "y_t1", "y_t2")
RANGE = (1.0, 5.0)


@pytest.fixture
def learner():
    """Without dropout, in whose place nothing is random but the mirroring."""
    return random_network(without_dropout(dataclasses.replace(SMALLEST, score_range=RANGE)))


def without_dropout(config):
    parts = {name: dataclasses.replace(getattr(config, name), dropout=0.0) for name in ("vcg", "vda")}
    return dataclasses.replace(config, **parts)


def entries(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(256, (count, 3, 32, 32), generator=generator).byte() for name in NAMES}


def numbers(*labels, units=None, severities=None):
    zeros = [0] * len(labels)
    return {
        "label": torch.tensor(labels, dtype=torch.float64),
        "severity": torch.tensor(severities or zeros),
        "unit": torch.tensor(units or list(range(len(labels)))),
    }


def pictures_of(entry):
    return [entry[name].float() / 127.5 - 1 for name in NAMES]


def mirrors(count):
    """Draws as the objective does, after the same seed."""
    torch.manual_seed(1)
    drawn = torch.rand(count) < 0.5
    torch.manual_seed(1)
    return drawn


def test_the_loss_is_the_squared_error_of_the_score_as_a_share_of_the_range(learner):
    """Of (MOS − low) / (high − low), with the range that the data set declares (D31)."""
    entry, drawn = entries(4), mirrors(4)
    assert 0 < drawn.sum() < 4
    scalars = BranchesObjective(learner).eval()(**entry, **numbers(1.0, 2.0, 3.5, 5.0))
    pictures = [torch.where(drawn[:, None, None, None], p.flip(-1), p) for p in pictures_of(entry)]
    shares = (learner(*pictures).view_scores - 1.0) / 4.0
    expected = (shares - torch.tensor([0.0, 0.25, 0.625, 1.0])).square().mean()
    torch.testing.assert_close(scalars["loss"].float(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        scalars["l1"].float(), (shares - torch.tensor([0.0, 0.25, 0.625, 1.0])).abs().mean(), rtol=1e-4, atol=1e-6
    )


def test_the_four_pictures_of_a_view_are_mirrored_alike_left_to_right(learner):
    """D30; the authors' code turns them upside down."""
    seen = []
    encode = learner.encode
    learner.encode = lambda *pictures: seen.append(pictures) or encode(*pictures)
    entry, drawn = entries(6), mirrors(6)
    BranchesObjective(learner)(**entry, **numbers(*[2.0] * 6))
    for given, used in zip(pictures_of(entry), seen[0], strict=True):
        for row, is_mirrored in enumerate(drawn):
            assert torch.equal(used[row], given[row].flip(-1) if is_mirrored else given[row])


def test_order_alone_trains_where_there_is_no_label(learner):
    """D31: the distorted version of a pair is to score lower by the margin of its steps of severity."""
    scalars = BranchesObjective(learner).eval()(
        **{name: picture[:1].repeat(2, 1, 1, 1) for name, picture in entries().items()},
        **numbers(math.nan, math.nan, units=[0, 0], severities=[0, 2]),
    )
    # Mirrored or not, these two score nearly alike.
    assert scalars["loss"].item() == pytest.approx(2 * ORDER_MARGIN, abs=0.05) and scalars["l1"] == 0


def train(network, tmp_path, steps=4, **options):
    class Batches(OpinionBatches):
        def __init__(self):
            super().__init__(
                [LabelledVideo(name=str(n), path=tmp_path / str(n), label=1.0 + n) for n in range(4)],
                self, batch=4, crops=1, processes=1, seed=0,
            )  # fmt: skip

        def read(self, entry: CropOfVideo):
            return {name: picture[0] for name, picture in entries(1, seed=int(entry.path.name)).items()}

    losses = []
    fit(
        BranchesObjective(network, **options),
        Batches(),
        FitConfig(steps=steps, learning_rate=3e-3, weight_decay=0.0, schedule="cosine"),
        tmp_path / "run",
        describes={},
        accelerator=Accelerator(cpu=True),
        on_step=lambda done, scalars: losses.append(scalars["l1"]),
    )
    return losses


@pytest.mark.parametrize(
    ("options", "parts"), [({}, {"vcg", "vda"}), ({"trains_encoders": True}, {"vcg", "vda", "vit", "resnet"})]
)
def test_frozen_encoders_do_not_move_and_no_statistics_do(learner, tmp_path, options, parts):
    """D28; what the encoders' BatchNorms have measured stays even where their weights learn."""
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    train(learner, tmp_path, **options)
    after = learner.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in moved} == parts
    assert not any("running" in name or "num_batches" in name for name in moved)


def test_the_branches_learn(learner, tmp_path):
    losses = train(learner, tmp_path, steps=60)
    assert losses[-1] < 0.5 * losses[0]


def test_new_branches_keep_restorer_and_encoders(network):
    config = dataclasses.replace(SMALLEST, score_range=RANGE)
    new = with_new_branches(network, config, seed=1)
    assert new.config == config and not new.training
    kept, other = network.state_dict(), new.state_dict()
    same = {name for name in kept if torch.equal(kept[name], other[name])}
    assert {name for name in kept if name.split(".")[0] in ("restorer", "vit", "resnet")} <= same
    assert not any(name.endswith("proj.weight") for name in same if name.startswith("vcg."))
    again, else_seeded = (with_new_branches(network, config, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(other[name], again[name]) for name in other)
    assert any(not torch.equal(other[name], else_seeded[name]) for name in other)


def test_a_pictures_score_is_the_mean_over_its_crops(learner, tmp_path):
    class Cache:
        def read(self, entry):
            return {name: picture[0] for name, picture in entries(1, seed=entry.crop).items()}

    picture = LabelledVideo(name="a", path=tmp_path / "a", label=2.0)
    scores = [learner(*pictures_of(entries(1, seed=crop))).view_scores.item() for crop in range(3)]
    assert predict_pictures(learner, [picture], Cache(), 3)[0] == pytest.approx(np.mean(scores), rel=1e-5)
    assert predict_pictures(learner, [picture], Cache(), 1)[0] == pytest.approx(scores[0], rel=1e-5)


def test_agreement_is_said_as_a_share_of_the_range(tmp_path):
    config = dataclasses.replace(SMALLEST, score_range=RANGE)
    pictures = [LabelledVideo(name=str(n), path=tmp_path, label=label) for n, label in enumerate((1.0, 3.0, 5.0, None))]
    said = agreement_line(np.array([1.2, 3.2, 4.6, 9.0]), pictures, config)
    assert said.startswith("4 pictures: L1 6.67% of the range, srcc 1.0000, plcc 0.99")
