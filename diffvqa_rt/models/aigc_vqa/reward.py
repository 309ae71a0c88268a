"""The alignment branch's head: ImageReward's MLP (SPEC §5)."""

from itertools import pairwise

from torch import Tensor, nn

_DROPOUTS = (0.2, 0.2, 0.1)


class Reward(nn.Module):
    """The state of [CLS] [V, width] → a number [V] float32, by linear layers with no activation between them.

    ImageReward's normalisation, (x − mean) / std, is folded into the last layer where its weights are loaded.
    """

    def __init__(self, width: int, hidden_widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        # No dropout right before the last layer.
        dropouts = iter(_DROPOUTS[: len(hidden_widths) - 1])
        for in_width, out_width in pairwise((width, *hidden_widths, 1)):
            self.layers.append(nn.Linear(in_width, out_width))
            if (dropout := next(dropouts, None)) is not None:
                self.layers.append(nn.Dropout(dropout))

    def forward(self, state: Tensor) -> Tensor:
        return self.layers(state).squeeze(-1).float()
