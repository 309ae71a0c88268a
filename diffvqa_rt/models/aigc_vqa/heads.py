"""The regression head of the technical and the aesthetic branch: a score at every token (SPEC §3, §4)."""

from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.models.aigc_vqa.convolutions import PointwiseConv3d

_DROPOUT = 0.5


class MapHead(nn.Module):
    """Tokens [..., width] → a score of each, [...] float32."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(_DROPOUT)
        self.fc_hid = PointwiseConv3d(width, hidden_width)
        self.fc_last = PointwiseConv3d(hidden_width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = F.gelu(self.fc_hid(self.dropout(tokens)))
        return self.fc_last(self.dropout(hidden)).squeeze(-1).float()
