"""The losses of a batch's scores (§3.4, as SPEC §7 reads them). Opinions are shares of their range, 0 … 1."""

import torch
from torch import Tensor, distributed

_EPS = 1e-8
RANK_WEIGHT = 1.0
"""λ."""


def correlation_loss(scores: Tensor, opinions: Tensor) -> Tensor:
    """L_plcc = ½ · (1 − the correlation of scores and opinions), both [m] (eq. 6); 0 … 1."""
    s, y = scores - scores.mean(), opinions - opinions.mean()
    # The norm's gradient at 0 is 0, where that of √Σ is none.
    norms = torch.linalg.vector_norm(s) * torch.linalg.vector_norm(y)
    return (1 - (s * y).sum() / (norms + _EPS)) / 2


def rank_loss(scores: Tensor, opinions: Tensor) -> Tensor:
    """L_rank = 1/m² · Σᵢⱼ max(0, |yᵢ − yⱼ| − sign(yᵢ − yⱼ) · (sᵢ − sⱼ)) of scores and opinions [m] (eq. 7).

    It is 0 once all differences of scores have the right sign and are at least as large as those of the opinions.
    """
    y = opinions[:, None] - opinions
    s = scores[:, None] - scores
    return (y.abs() - y.sign() * s).clamp(min=0).mean()


def dual_loss(scores: Tensor, opinions: Tensor) -> Tensor:
    """L = L_plcc + λ · L_rank of scores and opinions [m]."""
    return correlation_loss(scores, opinions) + RANK_WEIGHT * rank_loss(scores, opinions)


def gathered(own: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks: the losses are of a whole batch.

    The gradient reaches this process's rows, times the number of processes, since gradients are averaged over these.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return own
    processes = distributed.get_world_size()
    rows = [torch.empty_like(own) for _ in range(processes)]
    distributed.all_gather(rows, own.detach().contiguous())
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * processes)
    rows[distributed.get_rank()] = own
    return torch.cat(rows)
