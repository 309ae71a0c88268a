"""The choice of the weights that a build uses."""

import importlib.resources
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from diffvqa_export.metric_export import ChosenWeights
from diffvqa_export.registry import metric_export, network_label
from diffvqa_rt.hub import is_on_hub, local_weights
from diffvqa_rt.metrics.registry import DEFAULT, metric_named
from diffvqa_rt.models.registry import models_of
from diffvqa_rt.models.weights import network_from_state, read_safetensors

RANDOM_SEED = 0


def random_weights(preset: Any, seed: int = RANDOM_SEED, *, metric: str = DEFAULT) -> ChosenWeights:
    export = metric_export(metric)
    return ChosenWeights(preset, False, f"random, seed {seed}", lambda: export.random_network(preset, seed))


def choose_weights(
    preset: Any, path: Path | str | None, *, metric: str = DEFAULT, steps: int | None = None
) -> ChosenWeights:
    """The weights in `path`: a safetensors file of ours, or a folder in a layout that the metric knows.

    Either may be a repository of the Hugging Face Hub, hf://ORG/NAME@REVISION, which `diffvqa_rt.hub` fetches.

    Without a path the preset's bundled weights; without those, seeded random ones. A file describes its own network:
    what was trained with another head or on another range of scores is built as that.

    With `steps` the network's loop has so many turns. What a head has learned, it has learned from the features after
    its own number of steps (SPEC §2). A file was chosen for its scores, so a trained one of another number is refused;
    what has not been trained yet takes any number. The bundled weights were not chosen: where they are of another
    number, `steps` asks for an engine that shows what so many cost, and gets random weights, which say untrained.

    Raises:
        WeightsError: the repository cannot be had.
        ValueError: the file can't be read, holds a network of another preset, or was trained at another number of
            steps; or the network can't have so many.
    """
    export, declared = metric_export(metric), metric_named(metric)
    if is_on_hub(path):
        fetched = local_weights(path, export.layout)
        chosen_there = choose_weights(preset, fetched, metric=metric, steps=steps)
        # In the cache a folder has a commit for its name, and a file that of every other's.
        return replace(chosen_there, source=chosen_there.source.replace(fetched.name, path))
    path = None if path is None else Path(path)
    wanted = preset if steps is None else declared.network_of_steps(preset, steps)
    if path is not None and path.is_dir():
        return export.weights_in_folder(wanted, path)
    chosen = path or bundled_weights(preset.name, metric=metric)
    if chosen is None:
        return random_weights(wanted, metric=metric)
    config, is_trained = export.read_description(chosen)
    if config.name != preset.name:
        raise ValueError(f"{chosen} holds the network {config.name!r}, which is not the preset {preset.name!r}")
    if steps is not None and (trained_at := declared.steps(config)) != steps:
        if path is None:
            untrained = random_weights(wanted, metric=metric)
            return replace(untrained, source=f"{untrained.source}; {chosen.name} was trained at K = {trained_at}")
        if is_trained:
            raise ValueError(
                f"steps is {steps}, and {path} was trained at {trained_at}; give weights that were trained at {steps}, "
                "or leave steps out"
            )
        config = declared.network_of_steps(config, steps)

    def load() -> nn.Module:
        return network_from_state(models_of(metric).network, config, read_safetensors(chosen), chosen)

    return ChosenWeights(config, is_trained, chosen.name, load, chosen)


def bundled_weights(preset: str, *, metric: str = DEFAULT, folder: Path | None = None) -> Path | None:
    """The preset's file among those that the package brings, if there is one: METRIC-PRESET/METRIC-PRESET.safetensors.

    It lies in an engine folder, whose engines read it too. The default metric's may lack the metric's name.

    Args:
        folder: of engine folders; the package's if not given.
    """
    folder = folder or Path(str(importlib.resources.files("diffvqa_rt") / "weights"))
    names = (f"{metric}-{preset}", network_label(metric, preset))
    return next((path for name in names if (path := folder / name / f"{name}.safetensors").is_file()), None)
