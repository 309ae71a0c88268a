"""The head of a branch: each patch has a score and a weight (§III-C, D22)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class PatchScores(NamedTuple):
    """score [V]; scores and weights [V, P] of the patches; Σ weights = 1, Σ weights · scores = score. All float32."""

    score: Tensor
    scores: Tensor
    weights: Tensor


def _mlp(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Dropout(dropout), nn.Linear(channels, 1))


class PatchHead(nn.Module):
    """Maps [V, C, P] → one score of each view, the mean of its patches' by weights sigmoid(…) / Σ.

    A score has no final ReLU: one that dies scores 0 for everything (D22). An untrained score is near `start`.
    """

    def __init__(self, channels: int, dropout: float, start: float) -> None:
        super().__init__()
        self.score = _mlp(channels, dropout)
        self.weight = _mlp(channels, dropout)
        nn.init.constant_(self.score[-1].bias, start)

    def forward(self, maps: Tensor) -> PatchScores:
        if not self.training:
            return self._read(maps)
        # In half precision a score of 0 … 1 would be rounded to whole hundredths, and the loss with it.
        with torch.autocast(maps.device.type, enabled=False):
            return self._read(maps.float())

    def _read(self, maps: Tensor) -> PatchScores:
        patches = maps.transpose(1, 2)
        scores = self.score(patches).squeeze(-1).float()
        weights = torch.sigmoid(self.weight(patches).squeeze(-1).float())
        weights = weights / weights.sum(1, keepdim=True)
        return PatchScores((weights * scores).sum(1), scores, weights)
