"""DiffV²IQA's export: two stages in the order in which a view passes them, with their float32 exceptions."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffvqa_export.export_stage import EXAMPLE_VIDEOS, ExportStage, Tolerance
from diffvqa_export.metric_export import ChosenWeights, MetricExport, ParitySource
from diffvqa_export.precision import PRECISIONS
from diffvqa_rt.metrics.diffv2iqa.config import PICTURES, DiffV2IQAConfig
from diffvqa_rt.models.diffv2iqa.checkpoints import load_resnet, load_vit, read_description
from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA, random_network
from diffvqa_rt.models.diffv2iqa.sr3 import load_sr3
from diffvqa_rt.video import sample_frames

_FLOAT32_BYTES = 4
# Of the network that a folder of checkpoints does not hold: the branches.
_BRANCHES_SEED = 0
_SOURCES = 2
# By branch, the encoder that it reads; the name of its checkpoint.
_ENCODERS = {"vcg": "vit", "vda": "resnet50"}


def _pictures(config: DiffV2IQAConfig, count: int) -> tuple[Tensor, ...]:
    shape = (count, EXAMPLE_VIDEOS, 3, config.view_size, config.view_size)
    return tuple(torch.rand(shape) * 2 - 1)


RESTORATION_STEP = ExportStage(
    name="restoration_step",
    # The clamp of ŷ_0 bounds what the first step's factor, 1,015 at paper size, can make of ε's rounding.
    tolerances={
        "fp32": Tolerance(relative=1e-5, reason="sums of up to 9 · 1024 products, in another order, 70 layers deep"),
        "fp16": Tolerance(relative=1e-2, reason="70 layers that round to 11 bits"),
        "bf16": Tolerance(relative=5e-2, reason="70 layers that round to 8 bits"),
    },
    example_inputs=lambda config: (*_pictures(config, 2), torch.tensor([1])),
    # The sampler, its table and the noise stay in float32 too, since they are no modules, and attention's softmax.
    kept_in_float32={
        "unet.conv_in": "reads the float32 pictures; one in a hundred of the arithmetic",
        "unet.norm_out": "prepares what conv_out writes",
        "unet.conv_out": "writes the ε that the sampler multiplies; one in a thousand of the arithmetic",
    },
)
"""One step of the restoration, with the sampler, the noise and the noise levels folded in."""

QUALITY_BRANCHES = ExportStage(
    name="quality_branches",
    # In float32 whatever the rest runs in.
    tolerances=dict.fromkeys(
        PRECISIONS, Tolerance(relative=1e-4, reason="a transposed attention sums a product for every patch and channel")
    ),
    example_inputs=lambda config: _pictures(config, len(PICTURES)),
    kept_in_float32={"*": "1 in 16 of the arithmetic, and its transposed attentions sum raw residual streams (D36)"},
)
"""A view and what its restoration kept to the scores."""

STAGES = {stage.name: stage for stage in (RESTORATION_STEP, QUALITY_BRANCHES)}


def _weights_of_checkpoints(preset: DiffV2IQAConfig, folder: Path) -> ChosenWeights:
    """A folder with SR3's, a ViT's and a ResNet's checkpoint: restorer, vit and resnet50, .safetensors or .pth each."""

    parts = ("restorer", *(_ENCODERS[branch] for branch in preset.branch_names))
    files = {part: _checkpoint(folder, part) for part in parts}

    def load() -> DiffV2IQA:
        network = random_network(preset, _BRANCHES_SEED)
        load_sr3(network.restorer, files["restorer"])
        if network.vit is not None:
            load_vit(network.vit, files["vit"])
        if network.resnet is not None:
            load_resnet(network.resnet, files["resnet50"])
        return network

    return ChosenWeights(preset, False, f"{folder.name}, with random branches", load)


def _checkpoint(folder: Path, part: str) -> Path:
    names = (f"{part}.safetensors", f"{part}.pth")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"{folder} has no {' or '.join(names)}; expected the checkpoints of SR3's network, a ViT and a ResNet-50 as "
        "restorer, vit and resnet50"
    )


def _parity_sources(config: DiffV2IQAConfig, clip: Path) -> dict[str, ParitySource]:
    """A picture, and one without anything to see: a dead network gives both one score, and passes any comparison."""
    grey = np.full((1, config.view_size, config.view_size, 3), 128, np.uint8)
    pictures = {clip.name: sample_frames(clip, 1), "flat grey": sample_frames(grey, 1)}
    return {name: ParitySource(frames=frames) for name, frames in pictures.items()}


def _activation_bytes(config: DiffV2IQAConfig) -> int:
    """The first transposed attention's scores, a number for each pair of channels.

    The comparison puts two views beside each other. Measured at paper size: 4.1 GB in all.
    """
    alive = 2 * 4
    return alive * config.fused_channels**2 * _FLOAT32_BYTES


def _reference_bytes(config: DiffV2IQAConfig) -> int:
    # x, and y before and after each step.
    return _SOURCES * (config.sampler.steps + 2) * 3 * config.view_size**2 * _FLOAT32_BYTES


EXPORT = MetricExport(
    stages=STAGES,
    random_network=random_network,
    read_description=read_description,
    weights_in_folder=_weights_of_checkpoints,
    layout=tuple(f"{part}.safetensors" for part in ("restorer", *_ENCODERS.values())),
    dynamic_sizes=lambda config: {},
    activation_bytes=_activation_bytes,
    reference_bytes=_reference_bytes,
    parity_sources=_parity_sources,
)
