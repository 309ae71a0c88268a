"""The blocks of an encoder, in the order in which training fixes them (SPEC §8)."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn


class EncoderBlock(NamedTuple):
    """A block, and what stands right before it: embeddings or a stem before the first, a downsampling before others."""

    before: tuple[nn.Module | nn.Parameter, ...]
    block: nn.Module


def encoder_blocks(before: tuple[nn.Module | nn.Parameter, ...], blocks: Iterable[nn.Module]) -> list[EncoderBlock]:
    """Blocks one right after the other, of which `before` precedes the first."""
    first, *others = blocks
    return [EncoderBlock(before, first), *(EncoderBlock((), block) for block in others)]
