"""A folder with the checkpoints that the paper starts from, each as one file of a known name (SPEC §10)."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from diffvqa_rt.models.aigc_vqa.checkpoints import (
    load_blip,
    load_convnext,
    load_dover,
    load_image_reward,
    load_kinetics_swin,
)
from diffvqa_rt.models.aigc_vqa.network import AigcVqa


class _Published(NamedTuple):
    """A file: its reader, the branches that it is for, and the file that makes it unnecessary."""

    load: Callable[[AigcVqa, Path], None]
    branches: tuple[str, ...]
    covered_by: str | None = None


# By the file's name without its suffix.
_PUBLISHED = {
    "DOVER": _Published(load_dover, ("technical", "aesthetic")),
    "ImageReward": _Published(load_image_reward, ("alignment",)),
    "BLIP": _Published(load_blip, ("alignment",), covered_by="ImageReward"),
    "Swin": _Published(load_kinetics_swin, ("technical",), covered_by="DOVER"),
    "ConvNeXt": _Published(load_convnext, ("aesthetic",), covered_by="DOVER"),
}
_SUFFIXES = (".safetensors", ".pth", ".pt")

PUBLISHED_SAFETENSORS = tuple(f"{name}.safetensors" for name in _PUBLISHED)
"""The names of such files where pickles are not taken."""


def find_published(folder: Path, branches: Iterable[str] = ("technical", "aesthetic", "alignment")) -> dict[str, Path]:
    """The files of a folder that these branches can start from, by name.

    DOVER has the technical and the aesthetic branch, where there is none Swin the backbone of the one, ConvNeXt that of
    the other; ImageReward has the alignment branch, where there is none BLIP its encoders.

    Raises:
        ValueError: there is none.
    """
    wanted = {name: file for name, file in _PUBLISHED.items() if not set(branches).isdisjoint(file.branches)}
    found = {name: path for name in wanted for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").is_file()}
    if not found:
        raise ValueError(
            f"{folder} has none of {', '.join(wanted)} ({' or '.join(_SUFFIXES)}); expected DOVER for the visual "
            "branches, or Swin and ConvNeXt, and ImageReward for alignment, or BLIP"
        )
    return {name: path for name, path in found.items() if wanted[name].covered_by not in found}


def load_published(network: AigcVqa, files: dict[str, Path]) -> None:
    """Fills the network from files as `find_published` gives them.

    The adapter between encoders that were loaded starts as the identity.

    Raises:
        ValueError: a file can't be read, or does not fit the network.
    """
    for name, path in files.items():
        _PUBLISHED[name].load(network, path)
        if network.adapter is not None and "alignment" in _PUBLISHED[name].branches:
            network.adapter.start()
