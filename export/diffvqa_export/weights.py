"""Which weights a build uses."""

import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.models.diffvqa.checkpoints import load_stable_diffusion, load_weights, read_description
from diffvqa_rt.models.diffvqa.network import DiffVQA, random_network

RANDOM_SEED = 0


@dataclass(frozen=True, slots=True)
class ChosenWeights:
    """`load` makes the network when it is needed: at full size its weights are 5 GB."""

    config: DiffVQAConfig
    is_trained: bool
    source: str
    load: Callable[[], DiffVQA]


def random_weights(preset: DiffVQAConfig, seed: int = RANDOM_SEED) -> ChosenWeights:
    return ChosenWeights(preset, False, f"random, seed {seed}", lambda: random_network(preset, seed))


def choose_weights(preset: DiffVQAConfig, path: Path | None) -> ChosenWeights:
    """The weights in `path`: a safetensors file of ours, or a Stable Diffusion folder (its head untrained). Without a
    path the preset's bundled weights; without those, seeded random ones.

    A file describes its own network: what was trained with another head or on another range of scores is built as that.

    Raises:
        ValueError: the file can't be read, or holds a network of another preset.
    """
    if path is None:
        bundled = importlib.resources.files("diffvqa_rt") / "weights" / f"{preset.name}.safetensors"
        if not bundled.is_file():
            return random_weights(preset)
        path = Path(str(bundled))
    if path.is_dir():
        return ChosenWeights(preset, False, f"{path.name}, with a random head", lambda: _from_folder(preset, path))
    config, is_trained = read_description(path)
    if config.name != preset.name:
        raise ValueError(f"{path} holds the network {config.name!r}, which is not the preset {preset.name!r}")
    return ChosenWeights(config, is_trained, path.name, lambda: load_weights(path)[0])


def _from_folder(preset: DiffVQAConfig, folder: Path) -> DiffVQA:
    network = random_network(preset, RANDOM_SEED)
    load_stable_diffusion(network.extractor, folder)
    return network
