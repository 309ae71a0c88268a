"""The losses: by hand, what they do not see, and the whole batch's whoever holds the videos."""

import pytest
import torch
from two_processes import halves_of_a_batch, run_on_two

from diffvqa_rt.training.aigc_vqa.losses import correlation_loss, dual_loss, rank_loss

OPINIONS = torch.tensor([0.0, 0.3, 0.3, 1.0], dtype=torch.float64)
SCORES = torch.tensor([0.4, -0.2, 1.5, 0.9], dtype=torch.float64)


@pytest.mark.parametrize(
    ("scores", "expected"), [([0.0, 1.0, 2.0], 0.0), ([2.0, 1.0, 0.0], 1.0), ([1.0, 0.0, 1.0], 0.5)]
)
def test_the_correlation_loss_is_half_of_what_the_correlation_lacks(scores, expected):
    """Eq. 6; its terms are known for a line up, a line down, and no relation."""
    loss = correlation_loss(torch.tensor(scores), torch.tensor([0.0, 0.5, 1.0]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_rank_loss_counts_ordered_pairs_by_what_their_gap_lacks():
    """Eq. 7. Of the two ordered pairs each lacks 1 − (−1)·0.1."""
    assert rank_loss(torch.tensor([0.2, 0.1]), torch.tensor([0.0, 1.0])).item() == pytest.approx(2 * 1.1 / 4)
    assert rank_loss(torch.tensor([0.0, 0.7]), torch.tensor([0.0, 1.0])).item() == pytest.approx(2 * 0.3 / 4)


def test_videos_of_equal_opinions_have_no_order():
    assert rank_loss(torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])) == 0


def test_a_gap_that_is_large_enough_costs_nothing():
    assert rank_loss(3 * OPINIONS + 7, OPINIONS) == 0
    assert dual_loss(3 * OPINIONS + 7, OPINIONS).item() == pytest.approx(0, abs=1e-7)


def test_neither_sees_an_offset_nor_the_correlation_a_scale():
    """Hence the calibration."""
    for loss in (correlation_loss, rank_loss):
        assert loss(SCORES + 5, OPINIONS).item() == pytest.approx(loss(SCORES, OPINIONS).item())
    assert correlation_loss(9 * SCORES, OPINIONS).item() == pytest.approx(correlation_loss(SCORES, OPINIONS).item())
    assert rank_loss(9 * SCORES, OPINIONS).item() != pytest.approx(rank_loss(SCORES, OPINIONS).item())


def test_both_count_alike():
    expected = correlation_loss(SCORES, OPINIONS) + rank_loss(SCORES, OPINIONS)
    assert dual_loss(SCORES, OPINIONS).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("opinions", [OPINIONS, torch.full((4,), 0.5, dtype=torch.float64)])
def test_equal_scores_have_a_gradient_that_is_a_number(opinions):
    scores = torch.ones(4, dtype=torch.float64, requires_grad=True)
    dual_loss(scores, opinions).backward()
    assert scores.grad.isfinite().all()


def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path):
    """A local correlation of two videos is 1 or −1 whatever is learned."""
    model, x, y = halves_of_a_batch()
    dual_loss(model(x).squeeze(1), y).backward()
    for loss, gradient in run_on_two(tmp_path):
        assert loss == pytest.approx(dual_loss(model(x).squeeze(1), y).item())
        torch.testing.assert_close(gradient, model.weight.grad)
