"""The start of a whole head: what a TCAB and the diffusion's features each tell alone, half from each."""

from dataclasses import replace

import torch
from torch import nn

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.models.diffvqa.fusion import ScoreMLP
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.models.diffvqa.tcab import TemporalCoherenceBlock
from diffvqa_rt.training.diffvqa.bundled.tcab_pretraining import ReadTcab

_SHARE = 0.5


def diffusion_alone(config: DiffVQAConfig) -> DiffVQAConfig:
    """The same with half as wide an MLP and no TCAB: for a head that learns what the diffusion's features tell."""
    head = replace(config.head, mlp_width=config.head.mlp_width // 2, tcab=replace(config.head.tcab, views="none"))
    return replace(config, head=head)


@torch.no_grad()
def start_from_parts(network: DiffVQA, learned: ReadTcab, alone: DiffVQA) -> None:
    """Gives the head what a TCAB and a head without one have learned, so that it begins with the mean of their scores.

    The TCABs are frozen: of the few clips that there are features of, they would learn the contents by heart. Trained
    from random weights beside a TCAB that knows already, the diffusion's path learned nothing: what it could tell, the
    TCAB had told.

    Half of the units of the MLP that scores the frames tell what `learned` reads from the VQA token, each beside one
    that mirrors it, since GELU(x) − GELU(−x) = x. The other half are those of `alone`. The view that weighs the frames
    begins with even weights.

    Args:
        learned: of whole views of as many frames.
        alone: of `diffusion_alone`.
    """
    for view, other in ((network.head.semantic, alone.head.semantic), (network.head.distortion, alone.head.distortion)):
        for part in ("dff", "tdm", "fff"):
            getattr(view, part).load_state_dict(getattr(other, part).state_dict())
        if isinstance(view.tcab, TemporalCoherenceBlock):
            view.tcab.load_state_dict(learned.tcab.state_dict())
            view.tcab.requires_grad_(False)
    _begin_with(network.head.distortion.mlp, learned.of_token, alone.head.distortion.mlp)
    even = _linear(network.head.semantic.mlp)[1]
    even.weight.zero_()
    even.bias.zero_()


def _begin_with(mlp: ScoreMLP, readout: nn.Linear, alone: ScoreMLP) -> None:
    first, last = _linear(mlp)
    first_alone, last_alone = _linear(alone)
    frames, half = readout.out_features, first.out_features // 2
    copies = half // 2 // frames
    assert copies and first_alone.out_features == half, "half of the units for each, and of these two a frame"
    first.weight.zero_()
    first.bias.zero_()
    last.weight.zero_()
    for start, sign in ((0, 1), (half // 2, -1)):
        rows = slice(start, start + copies * frames)
        first.weight[rows, -readout.in_features :] = sign * readout.weight.repeat(copies, 1)
        first.bias[rows] = sign * readout.bias.repeat(copies)
        last.weight[:, rows] = _SHARE * sign / copies * torch.eye(frames).repeat(1, copies)
    first.weight[half:, : -readout.in_features] = first_alone.weight
    first.bias[half:] = first_alone.bias
    last.weight[:, half:] = (1 - _SHARE) * last_alone.weight
    last.bias.copy_((1 - _SHARE) * last_alone.bias)


def _linear(mlp: ScoreMLP) -> list[nn.Linear]:
    """The first and the last layer."""
    return [layer for layer in mlp if isinstance(layer, nn.Linear)]
