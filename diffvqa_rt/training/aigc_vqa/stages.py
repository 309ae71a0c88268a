"""What a training stage learns, and by which loss (SPEC §8)."""

import math
from dataclasses import dataclass

from diffvqa_rt.checks import require
from diffvqa_rt.metrics.aigc_vqa.fusion import ALIGNMENT, VISUAL

BRANCHES = (*VISUAL, ALIGNMENT)

PARTS = {
    "technical": ("technical",),
    "aesthetic": ("aesthetic",),
    ALIGNMENT: ("vision", "adapter", "text_encoder", "reward"),
}
"""The parts of the network that a branch is made of."""

ENCODERS = {"technical": ("technical",), "aesthetic": ("aesthetic",), ALIGNMENT: ("vision", "text")}
"""The encoders of a branch, by their names in `AigcVqa.encoder_blocks`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """A training stage; what differs between the rows of the paper's Tables 2, 4, 5 and 6.

    Attributes:
        branches: those that learn, and whose sum is s (Table 2).
        unfixed_percent: of each of their encoders' blocks, the last so many percent learn (Table 4).
        learns_sum: whether the loss has L(s).
        branch_loss_weight: of L(q) of each branch.
        has_adapter: whether the alignment branch has its adapter (Table 5).
    """

    branches: tuple[str, ...]
    unfixed_percent: int
    learns_sum: bool
    branch_loss_weight: float = 1.0
    has_adapter: bool = True

    def __post_init__(self) -> None:
        is_some = bool(self.branches) and set(self.branches) <= set(BRANCHES)
        require(is_some, "branches", self.branches, f"some of {', '.join(BRANCHES)}")
        in_order = tuple(branch for branch in BRANCHES if branch in self.branches)
        require(
            in_order == self.branches, "branches", self.branches, f"each once, in this order: {', '.join(in_order)}"
        )
        percent, weight = self.unfixed_percent, self.branch_loss_weight
        require(0 <= percent <= 100, "unfixed_percent", percent, "0 to 100")
        require(0 <= weight < math.inf, "branch_loss_weight", weight, "0 or more")
        require(self.learns_sum or weight > 0, "branch_loss_weight", weight, "over 0 where the loss has no L(s)")

    @property
    def needs_prompts(self) -> bool:
        return ALIGNMENT in self.branches

    @property
    def calibrated(self) -> tuple[str, ...]:
        """The branches whose numbers are brought to the opinions' scale after the stage."""
        return BRANCHES if self.needs_prompts else VISUAL


STAGES = {
    1: StageConfig(branches=VISUAL, unfixed_percent=100, learns_sum=False),
    2: StageConfig(branches=(ALIGNMENT,), unfixed_percent=70, learns_sum=False),
    3: StageConfig(branches=BRANCHES, unfixed_percent=30, learns_sum=True),
}
"""The paper's three stages (§3.4, §4.2)."""
