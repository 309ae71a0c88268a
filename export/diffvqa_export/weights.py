"""Which weights a build uses."""

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

from diffvqa_rt.config import DiffVQAConfig
from diffvqa_rt.models.checkpoints import load_stable_diffusion, load_weights
from diffvqa_rt.models.diffvqa import DiffVQA, random_network

RANDOM_SEED = 0


@dataclass(frozen=True, slots=True)
class ChosenWeights:
    network: DiffVQA
    is_trained: bool
    source: str


def choose_weights(preset: DiffVQAConfig, path: Path | None) -> ChosenWeights:
    """The weights in `path`: a safetensors file of ours, or a Stable Diffusion folder (its head untrained). Without a
    path the preset's bundled weights; without those, seeded random ones.

    Raises:
        ValueError: the file can't be read, or holds another network than the preset.
    """
    if path is None:
        bundled = importlib.resources.files("diffvqa_rt") / "weights" / f"{preset.name}.safetensors"
        if not bundled.is_file():
            return ChosenWeights(random_network(preset, RANDOM_SEED), False, f"random, seed {RANDOM_SEED}")
        path = Path(str(bundled))
    if path.is_dir():
        network = random_network(preset, RANDOM_SEED)
        load_stable_diffusion(network.extractor, path)
        return ChosenWeights(network, False, f"{path.name}, with a random head")
    network, is_trained = load_weights(path)
    if network.config != preset:
        raise ValueError(f"{path} holds the network {network.config.name!r}, which is not the preset {preset.name!r}")
    return ChosenWeights(network, is_trained, path.name)
