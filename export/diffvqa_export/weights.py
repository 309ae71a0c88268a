"""The choice of the weights that a build uses."""

import importlib.resources
from pathlib import Path
from typing import Any

from diffvqa_export.metric_export import ChosenWeights
from diffvqa_export.registry import metric_export, network_label
from diffvqa_rt.metrics.registry import DEFAULT

RANDOM_SEED = 0


def random_weights(preset: Any, seed: int = RANDOM_SEED, *, metric: str = DEFAULT) -> ChosenWeights:
    export = metric_export(metric)
    return ChosenWeights(preset, False, f"random, seed {seed}", lambda: export.random_network(preset, seed))


def choose_weights(preset: Any, path: Path | None, *, metric: str = DEFAULT) -> ChosenWeights:
    """The weights in `path`: a safetensors file of ours, or a folder in a layout that the metric knows.

    Without a path the preset's bundled weights; without those, seeded random ones. A file describes its own network:
    what was trained with another head or on another range of scores is built as that.

    Raises:
        ValueError: the file can't be read, or holds a network of another preset.
    """
    export = metric_export(metric)
    if path is None:
        path = bundled_weights(preset.name, metric=metric)
    if path is None:
        return random_weights(preset, metric=metric)
    if path.is_dir():
        return export.weights_in_folder(preset, path)
    config, is_trained = export.read_description(path)
    if config.name != preset.name:
        raise ValueError(f"{path} holds the network {config.name!r}, which is not the preset {preset.name!r}")
    return ChosenWeights(config, is_trained, path.name, lambda: export.read_network(path))


def bundled_weights(preset: str, *, metric: str = DEFAULT, folder: Path | None = None) -> Path | None:
    """The preset's file among those that the package brings (in `folder`), METRIC-PRESET.safetensors, if there is one.

    The default metric's may lack the metric's name.
    """
    folder = folder or Path(str(importlib.resources.files("diffvqa_rt") / "weights"))
    names = (f"{metric}-{preset}", network_label(metric, preset))
    return next((path for name in names if (path := folder / f"{name}.safetensors").is_file()), None)
