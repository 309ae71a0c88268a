"""The objective: the losses of its stage, video by video as in one pass, with dropout that the second pass repeats."""

import dataclasses

import pytest
import torch
from prompted_network import SMALL

from diffvqa_rt.models.aigc_vqa.network import random_network
from diffvqa_rt.training.aigc_vqa.losses import dual_loss
from diffvqa_rt.training.aigc_vqa.objective import BranchNumbers, StageObjective
from diffvqa_rt.training.aigc_vqa.stages import STAGES, StageConfig
from diffvqa_rt.training.loop import checkpoint_activations

RANGE = (1.0, 5.0)
CONFIG = dataclasses.replace(SMALL, score_range=RANGE)
VIDEOS = 4


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    shape = (VIDEOS, CONFIG.frames, 3, CONFIG.view_size, CONFIG.view_size)
    fragments, resized = (torch.randint(256, shape, generator=generator).byte() for _ in range(2))
    token_ids = torch.randint(5, 200, (VIDEOS, CONFIG.text.prompt_tokens), generator=generator)
    return {
        "fragments": fragments,
        "resized": resized,
        "token_ids": token_ids,
        "token_mask": torch.ones_like(token_ids),
        "label": torch.tensor([1.0, 3.5, 2.0, 5.0], dtype=torch.float64),
        "severity": torch.zeros(VIDEOS, dtype=torch.int64),
        "unit": torch.arange(VIDEOS),
    }


def gradients(objective, batch, seed=1):
    """The loss, and by name the gradients of what learns."""
    objective.zero_grad()
    torch.manual_seed(seed)
    loss = objective(**batch)["loss"]
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in objective.trained.named_parameters() if p.grad is not None}


def of_the_whole_batch(network, batch):
    """The numbers of all videos, from the network at once."""
    views = [batch[name].float() / 127.5 - 1 for name in ("fragments", "resized")]
    found = network(*views, batch["token_ids"], batch["token_mask"])
    return {
        "technical": found.technical_map.mean((1, 2, 3)),
        "aesthetic": found.aesthetic_map.mean((1, 2, 3)),
        "alignment": found.alignment_score,
    }


def losses_of_the_whole_batch(network, batch):
    """Of each branch, and of the sum; opinions are shares of their range."""
    opinions = ((batch["label"] - 1) / 4).float()
    numbers = of_the_whole_batch(network, batch)
    return {name: dual_loss(s, opinions) for name, s in (numbers | {"sum": sum(numbers.values())}).items()}


def recomputing(objective):
    checkpoint_activations(objective, objective.recomputed)
    return objective


@pytest.mark.parametrize("prepared", [StageObjective, lambda *made: recomputing(StageObjective(*made))])
def test_the_gradient_is_the_whole_batchs(batch, prepared):
    network = random_network(CONFIG)
    objective = prepared(network, STAGES[3]).eval()
    loss, found = gradients(objective, batch)
    network.zero_grad()
    expected = sum(losses_of_the_whole_batch(network, batch).values())
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    learning = {name: p for name, p in objective.trained.named_parameters() if p.requires_grad}
    assert found.keys() == learning.keys()
    largest = max(p.grad.abs().max() for p in learning.values())
    for name, parameter in learning.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6 * largest.item())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_passes_are_one_with_dropout_to_the_bit(batch, stage):
    """The second pass has the dropout and the stochastic depth of the first."""
    stage = dataclasses.replace(STAGES[stage], unfixed_percent=50)
    loss, expected = gradients(StageObjective(random_network(CONFIG), stage).train(), batch)
    objective = recomputing(StageObjective(random_network(CONFIG), stage)).train()
    again, found = gradients(objective, batch)
    assert torch.equal(loss, again) and found.keys() == expected.keys() and found
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    _, other = gradients(objective, batch, seed=2)
    assert not all(torch.equal(other[name], gradient) for name, gradient in expected.items())


def test_the_second_pass_is_video_by_video(batch, monkeypatch):
    runs, forward = [], BranchNumbers.forward
    monkeypatch.setattr(BranchNumbers, "forward", lambda *args: runs.append(len(args[1])) or forward(*args))
    loss = recomputing(StageObjective(random_network(CONFIG), STAGES[2]))(**batch)["loss"]
    assert runs == [1] * VIDEOS
    loss.backward()
    assert runs == [1] * 2 * VIDEOS


@pytest.mark.parametrize(
    ("stage", "weights"),
    [
        (STAGES[1], {"technical": 1, "aesthetic": 1}),
        (STAGES[2], {"alignment": 1}),
        (STAGES[3], {"technical": 1, "aesthetic": 1, "alignment": 1, "sum": 1}),
        (dataclasses.replace(STAGES[3], branch_loss_weight=0.0), {"sum": 1}),
        (
            dataclasses.replace(STAGES[3], branch_loss_weight=0.5),
            {"technical": 0.5, "aesthetic": 0.5, "alignment": 0.5, "sum": 1},
        ),
        (dataclasses.replace(STAGES[1], branches=("aesthetic",)), {"aesthetic": 1}),
    ],
)  # fmt: skip
def test_each_stage_has_its_losses(batch, stage, weights):
    network = random_network(CONFIG)
    scalars = StageObjective(network, stage).eval()(**batch)
    losses = losses_of_the_whole_batch(network, batch)
    expected = sum(weight * losses[name] for name, weight in weights.items())
    assert scalars["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert scalars.keys() == {"loss", *stage.branches, *(["sum"] if stage.learns_sum else [])}


def test_the_sum_is_of_the_branches_that_learn(batch):
    """Table 2."""
    network = random_network(CONFIG)
    stage = dataclasses.replace(STAGES[3], branches=("technical", "alignment"), branch_loss_weight=0.0)
    numbers = of_the_whole_batch(network, batch)
    expected = dual_loss(numbers["technical"] + numbers["alignment"], ((batch["label"] - 1) / 4).float())
    assert StageObjective(network, stage).eval()(**batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any(p.requires_grad for p in network.aesthetic.parameters())


def test_stage_one_needs_no_prompts(batch):
    del batch["token_ids"], batch["token_mask"]
    assert StageObjective(random_network(CONFIG), STAGES[1])(**batch)["loss"].isfinite()


def test_half_precision_passes_twice_too(batch):
    objective = recomputing(StageObjective(random_network(CONFIG), STAGES[3])).train()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(**batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in objective.trained.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"branches": ()}, r"branches is \(\); expected some of technical, aesthetic, alignment"),
        ({"branches": ("text",)}, "expected some of technical, aesthetic, alignment"),
        ({"branches": ("aesthetic", "technical")}, "each once, in this order: technical, aesthetic"),
        ({"unfixed_percent": 101}, "unfixed_percent is 101; expected 0 to 100"),
        ({"branch_loss_weight": -1.0}, "branch_loss_weight is -1.0; expected 0 or more"),
        ({"branch_loss_weight": 0.0, "learns_sum": False}, r"expected over 0 where the loss has no L\(s\)"),
    ],
)
def test_a_bad_stage_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(STAGES[3], **change)


def test_the_stages_are_the_papers():
    assert STAGES[1] == StageConfig(branches=("technical", "aesthetic"), unfixed_percent=100, learns_sum=False)
    assert STAGES[2] == StageConfig(branches=("alignment",), unfixed_percent=70, learns_sum=False)
    assert STAGES[3] == StageConfig(
        branches=("technical", "aesthetic", "alignment"), unfixed_percent=30, learns_sum=True
    )
