"""The objective of a training stage: the dual losses of a whole batch, whose videos pass one by one (SPEC §7, §8)."""

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.aigc_vqa.fusion import ALIGNMENT
from diffvqa_rt.models.aigc_vqa.network import AigcVqa
from diffvqa_rt.training.aigc_vqa.losses import dual_loss, gathered
from diffvqa_rt.training.aigc_vqa.stages import StageConfig
from diffvqa_rt.training.aigc_vqa.unfixed import choose_what_learns, learning_parts
from diffvqa_rt.training.loop import Objective


class BranchNumbers(nn.Module):
    """The numbers of some branches: q_t, q_a and s_a, each by the branch's name in `branches`.

    Views uint8 [V, T, 3, S, S] and prompts int64 [V, L] → [V, branches] float32. Prompts may be missing where alignment
    is not among the branches.
    """

    def __init__(self, network: AigcVqa, branches: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.branches = branches

    def forward(
        self,
        fragments: Tensor,
        resized: Tensor,
        token_ids: Tensor | None = None,
        token_mask: Tensor | None = None,
    ) -> Tensor:
        network, numbers = self.network, []
        if "technical" in self.branches:
            numbers.append(network.technical(_normalized(fragments)).flatten(1).mean(1))
        if "aesthetic" in self.branches:
            numbers.append(network.aesthetic(_normalized(resized)).flatten(1).mean(1))
        if ALIGNMENT in self.branches:
            assert token_ids is not None and token_mask is not None
            numbers.append(network.align(network.vision(_normalized(resized)), token_ids, token_mask))
        return torch.stack(numbers, dim=1)


class StageObjective(Objective):
    """L(s), where the stage learns the sum, and the weighted L(q) of its branches, over all processes' videos.

    A score depends on its video alone. So with `recomputed` blocks run again in the backward pass, the two passes of
    SPEC §7 are exact: all scores without gradient, and then, video by video, the score again with the same dropout and
    its gradient; the activations of one video stand in memory.

    Args of `forward`: as `OpinionBatches` gives them from `PromptedClips`.
    """

    recomputed = (BranchNumbers,)

    def __init__(self, network: AigcVqa, stage: StageConfig) -> None:
        super().__init__()
        self.trained: nn.ModuleDict = learning_parts(network, stage.branches)
        self._fixed = choose_what_learns(network, stage)
        self._numbers = BranchNumbers(network, stage.branches)
        self._stage = stage
        self._range = network.config.score_range

    def train(self, mode: bool = True) -> "StageObjective":
        super().train(mode)
        for module in self._fixed:
            module.eval()
        return self

    def forward(self, label: Tensor, severity: Tensor, unit: Tensor, **views: Tensor) -> dict[str, Tensor]:
        names = ("fragments", "resized", *(("token_ids", "token_mask") if self._stage.needs_prompts else ()))
        videos = zip(*(views[name].split(1) for name in names), strict=True)
        numbers = gathered(torch.cat([self._numbers(*video) for video in videos]))
        low, high = self._range
        opinions = gathered((label - low) / (high - low)).to(numbers.dtype)
        losses = {name: dual_loss(numbers[:, index], opinions) for index, name in enumerate(self._stage.branches)}
        loss = self._stage.branch_loss_weight * torch.stack(list(losses.values())).sum()
        if self._stage.learns_sum:
            losses["sum"] = dual_loss(numbers.sum(1), opinions)
            loss = loss + losses["sum"]
        return {"loss": loss, **losses}


def _normalized(view: Tensor) -> Tensor:
    """Pixels as the engines take them, in [−1, 1]."""
    return view.float() / 127.5 - 1
