"""The whole network: the frozen restorer and encoders, and the two branches that read quality from them (§III)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.diffv2iqa.config import PICTURES, DiffV2IQAConfig, Picture
from diffvqa_rt.models.diffv2iqa.attention import TransposedAttention
from diffvqa_rt.models.diffv2iqa.compensation import CompensationGuidance
from diffvqa_rt.models.diffv2iqa.difference import DifferenceAnalysis
from diffvqa_rt.models.diffv2iqa.resnet import ResNet
from diffvqa_rt.models.diffv2iqa.restorer import Restorer
from diffvqa_rt.models.diffv2iqa.vit import ViT

_MIDDLE = 0.5


class Prediction(NamedTuple):
    """Scores of V views, in the order and shapes of the engine `quality_branches`.

    Attributes:
        view_scores: [V] on the config's `score_range` scale.
        branch_scores: [V, B], of which the sum is 0 … 1 (eq. 11).
        patch_scores: [V, B, g, g].
        patch_weights: [V, B, g, g]; Σ over the patches = 1, Σ weights · scores = branch score.
    """

    view_scores: Tensor
    branch_scores: Tensor
    patch_scores: Tensor
    patch_weights: Tensor


class EncoderMaps(NamedTuple):
    """Maps of the frozen encoders, for the branches that are there (`CompensationGuidance`, `DifferenceAnalysis`)."""

    vit: dict[Picture, list[Tensor]]
    resnet: list[Tensor]


class DiffV2IQA(nn.Module):
    """The network. `forward` scores views from themselves and the three pictures that their restoration gave.

    Args of `forward`: x, y_0, y_t1, y_t2 [V, 3, S, S] in [−1, 1]; a y beyond that is clamped (D8).

    Restorer, ViT and ResNet are frozen: they need no gradients, and stay in evaluation mode in `train()` too (D28).
    """

    def __init__(self, config: DiffV2IQAConfig) -> None:
        super().__init__()
        self.config = config
        self.restorer = Restorer(config.restorer)
        self.vit: ViT | None = None
        self.resnet: ResNet | None = None
        self.vcg: CompensationGuidance | None = None
        self.vda: DifferenceAnalysis | None = None
        # Untrained branches add up to the middle of the range (D22).
        start = _MIDDLE / len(config.branch_names)
        if "vcg" in config.branch_names:
            self.vit = ViT(config.vit, config.grid, config.vit_blocks)
            self.vcg = CompensationGuidance(config, start)
        if "vda" in config.branch_names:
            self.resnet = ResNet(config.vda)
            self.vda = DifferenceAnalysis(config, start)
        for encoder in self._frozen():
            encoder.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        return [module for module in (self.restorer, self.vit, self.resnet) if module is not None]

    def train(self, mode: bool = True) -> "DiffV2IQA":
        super().train(mode)
        for encoder in self._frozen():
            encoder.eval()
        return self

    def encode(self, x: Tensor, y_0: Tensor, y_t1: Tensor, y_t2: Tensor) -> EncoderMaps:
        """The encoders' maps, which do not change while the branches learn."""
        pictures: dict[Picture, Tensor] = {"x": x, "y_0": y_0, "y_t1": y_t1, "y_t2": y_t2}
        for name in PICTURES[1:]:
            pictures[name] = pictures[name].clamp(-1, 1) if name in self.config.pictures else x
        vit = {} if self.vit is None else self.vit(pictures, self.config.vcg.blocks)
        resnet = [] if self.resnet is None else self.resnet(torch.cat([pictures[name] for name in PICTURES]))
        return EncoderMaps(vit, resnet)

    def predict(self, maps: EncoderMaps) -> Prediction:
        """The score of what `encode` gave."""
        branches = []
        if self.vcg is not None:
            branches.append(self.vcg(maps.vit))
        if self.vda is not None:
            branches.append(self.vda(maps.resnet))
        branch_scores, *patches = (torch.stack(values, dim=1) for values in zip(*branches, strict=True))
        low, high = self.config.score_range
        view_scores = low + (high - low) * branch_scores.sum(1)
        grid = self.config.grid
        return Prediction(view_scores, branch_scores, *(values.unflatten(2, (grid, grid)) for values in patches))

    def forward(self, x: Tensor, y_0: Tensor, y_t1: Tensor, y_t2: Tensor) -> Prediction:
        return self.predict(self.encode(x, y_0, y_t1, y_t2))


def random_network(config: DiffV2IQAConfig, seed: int = 0) -> DiffV2IQA:
    """The network with seeded random weights, in evaluation mode: untrained, but the same on every machine.

    What an untrained network would hide from the checks that these weights serve is made visible: BatchNorms get random
    statistics and scales, and attention over channels has more to choose from than one nearly uniform mean.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiffV2IQA(config)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, std=0.2)
            elif isinstance(module, TransposedAttention):
                # Differences, which the VDA's attends to, are much smaller than maps.
                gain = 16.0 if network.vda is not None and module is network.vda.attention else 1.5
                for linear in (module.to_q, module.to_k):
                    nn.init.normal_(linear.weight, std=gain * config.positions**-0.5)
    return network.eval()
