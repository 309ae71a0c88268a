"""The unfixed ratio: which blocks of an encoder learn, and which stay as they are (SPEC §8)."""

from collections.abc import Iterable, Sequence

from torch import nn

from diffvqa_rt.models.aigc_vqa.encoder import EncoderBlock
from diffvqa_rt.models.aigc_vqa.network import AigcVqa
from diffvqa_rt.training.aigc_vqa.stages import ENCODERS, PARTS, StageConfig


def fixed_count(blocks: int, unfixed_percent: int) -> int:
    """The number of blocks, from the input on, that are fixed."""
    return blocks * (100 - unfixed_percent) // 100


def learning_parts(network: AigcVqa, branches: Iterable[str]) -> nn.ModuleDict:
    """The parts of the network that these branches are made of, by name."""
    names = [name for branch in branches for name in PARTS[branch]]
    return nn.ModuleDict({name: part for name in names if (part := getattr(network, name)) is not None})


def choose_what_learns(network: AigcVqa, stage: StageConfig) -> list[nn.Module]:
    """Marks the parameters that learn in a stage, and no others.

    Returns:
        The fixed modules of the branches that learn, which are to stay in evaluation mode: without dropout and
        stochastic depth.
    """
    network.requires_grad_(False)
    learning_parts(network, stage.branches).requires_grad_(True)
    blocks = network.encoder_blocks()
    fixed: list[nn.Module] = []
    for name in (name for branch in stage.branches for name in ENCODERS[branch]):
        fixed += _fix(blocks[name][: fixed_count(len(blocks[name]), stage.unfixed_percent)])
    return fixed


def _fix(blocks: Sequence[EncoderBlock]) -> list[nn.Module]:
    """Takes the blocks, and what stands right before each, out of what learns; the modules among them."""
    modules = []
    for part in (part for block in blocks for part in (*block.before, block.block)):
        part.requires_grad_(False)
        if isinstance(part, nn.Module):
            modules.append(part)
    return modules
