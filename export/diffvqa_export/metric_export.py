"""A metric's part in an export: its network, the weights that it takes, and its stages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diffvqa_export.export_stage import ExportStage
from diffvqa_rt.video import SampledFrames


@dataclass(frozen=True, slots=True)
class ChosenWeights:
    """A network's weights before they are read: `load` makes the network when it is needed, at full size 5 GB.

    `file` is the safetensors file that has them all, where there is one.
    """

    config: Any
    is_trained: bool
    source: str
    load: Callable[[], nn.Module]
    file: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ParitySource:
    """A source that engines are compared with torch on: its frames, and its prompt where the metric takes one."""

    frames: SampledFrames
    prompt: str | None = None


def no_prompt_files(config: Any, vocabulary: Path | None) -> dict[str, Path]:
    """The files of a metric without prompts: none. Raises ValueError where a vocabulary is given."""
    if vocabulary is not None:
        raise ValueError(f"vocabulary is {vocabulary}; this metric takes no prompts, leave it out")
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricExport:
    """A metric as the export sees it. A config is of the metric's own class.

    Attributes:
        stages: the engines by name, in the order in which an item passes them.
        random_network: config, seed → the network with seeded weights, the same on every machine.
        read_description: a safetensors file → the config of its network, and whether it was trained.
        weights_in_folder: preset, folder → weights in a foreign layout.
        layout: the files of such a folder that are fetched where it is a repository of the Hugging Face Hub.
        dynamic_sizes: config → the sizes that a plan fixes, of the dynamic dimensions other than the batch's.
        activation_bytes: config → the memory that the widest point of the network takes on one item.
        reference_bytes: config → the size of the recorded reference.
        parity_sources: config, the build's clip → what its engines are compared with torch on, by a name for the
            report. A network that gives two of them one score is refused.
        prompt_files: config, the vocabulary that the build was given → where the files are that prompts are read with,
            by their names in the engine folder. Raises ValueError where one is not to be had.
    """

    stages: Mapping[str, ExportStage]
    random_network: Callable[[Any, int], nn.Module]
    read_description: Callable[[Path], tuple[Any, bool]]
    weights_in_folder: Callable[[Any, Path], ChosenWeights]
    dynamic_sizes: Callable[[Any], Mapping[str, int]]
    activation_bytes: Callable[[Any], int]
    reference_bytes: Callable[[Any], int]
    parity_sources: Callable[[Any, Path], Mapping[str, ParitySource]]
    prompt_files: Callable[[Any, Path | None], Mapping[str, Path]] = no_prompt_files
    layout: tuple[str, ...] = ()
