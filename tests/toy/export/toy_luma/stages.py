"""The toy metric's export: its stages, and its weights in and out."""

import json
from pathlib import Path

import torch
from diffvqa_export.export_stage import EXAMPLE_VIDEOS, ExportStage, Tolerance
from diffvqa_export.metric_export import ChosenWeights, MetricExport, ParitySource
from diffvqa_rt.metrics.toy_luma.config import SIZE, ToyLumaConfig
from diffvqa_rt.models.toy_luma.stages import ToyLuma, random_network
from safetensors import safe_open
from torch import Tensor

from diffvqa_rt.models.weights import write_safetensors
from diffvqa_rt.video import sample_frames

_SUMS = Tolerance(relative=1e-5, reason="sums of 4096 pixels in another order")


def _luma_inputs(config: ToyLumaConfig) -> tuple[Tensor, ...]:
    return (torch.rand(EXAMPLE_VIDEOS, config.frames, 3, SIZE, SIZE),)


def _step_inputs(config: ToyLumaConfig) -> tuple[Tensor, ...]:
    curves = (torch.rand(EXAMPLE_VIDEOS, config.frames) for _ in range(2))
    return torch.rand(EXAMPLE_VIDEOS), *curves, torch.tensor([1])


STAGES = {
    stage.name: stage
    for stage in (
        ExportStage(name="luma", tolerances={"fp32": _SUMS}, example_inputs=_luma_inputs),
        ExportStage(name="adapting_step", tolerances={"fp32": _SUMS}, example_inputs=_step_inputs),
    )
}


def save_weights(network: ToyLuma, path: Path) -> None:
    write_safetensors(network.state_dict(), path, {"config": json.dumps(network.config.as_dict())})


def _read_description(path: Path) -> tuple[ToyLumaConfig, bool]:
    with safe_open(path, framework="pt") as file:
        return ToyLumaConfig.from_dict(json.loads(file.metadata()["config"])), True


def _weights_in_folder(preset: ToyLumaConfig, folder: Path) -> ChosenWeights:
    raise ValueError(f"{folder} is a folder; expected a safetensors file")


EXPORT = MetricExport(
    stages=STAGES,
    random_network=random_network,
    read_description=_read_description,
    weights_in_folder=_weights_in_folder,
    dynamic_sizes=lambda config: {},
    activation_bytes=lambda config: 4 * 3 * SIZE**2 * config.frames,
    reference_bytes=lambda config: 4 * 3 * SIZE**2 * config.frames,
    parity_sources=lambda config, clip: {clip.name: ParitySource(frames=sample_frames(clip, config.frames))},
)
