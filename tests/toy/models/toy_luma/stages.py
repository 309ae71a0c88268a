"""The network, and its two engines."""

import torch
from diffvqa_rt.metrics.toy_luma.config import TURNS, ToyLumaConfig
from torch import Tensor, nn

from diffvqa_rt.models.registry import MetricModels


class Luma(nn.Module):
    """pictures [V, N, 3, S, S] → luma [V], frame_luma [V, N]."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(3))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        frame_luma = (pictures.mean((-2, -1)) * self.weights).sum(-1)
        return frame_luma.mean(1), frame_luma


class AdaptingStep(nn.Module):
    """The level rises to the brightest frame, and the curve goes to the level, each turn more slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rates", 2.0 ** -torch.arange(1.0, TURNS + 1))

    def forward(self, level: Tensor, curve: Tensor, frame_luma: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        rate = self.rates[step]
        level = level + rate * (frame_luma.amax(1) - level)
        return level, curve + rate * (level[:, None] - curve)


class ToyLuma(nn.Module):
    def __init__(self, config: ToyLumaConfig) -> None:
        super().__init__()
        self.config = config
        self.luma = Luma()
        self.step = AdaptingStep()


def random_network(config: ToyLumaConfig, seed: int) -> ToyLuma:
    """The network with seeded weights, in evaluation mode."""
    network = ToyLuma(config)
    nn.init.uniform_(network.luma.weights, generator=torch.Generator().manual_seed(seed))
    return network.eval()


def stage_modules(network: ToyLuma) -> dict[str, nn.Module]:
    """The network's engines by name, in evaluation mode."""
    return {"luma": network.luma.eval(), "adapting_step": network.step.eval()}


MODELS = MetricModels(network=ToyLuma, stages=stage_modules)
