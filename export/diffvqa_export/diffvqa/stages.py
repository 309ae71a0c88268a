"""DiffVQA's export: three stages in the order in which a video passes them, with their float32 exceptions."""

from pathlib import Path

import torch
from torch import Tensor

from diffvqa_export.export_stage import ExportStage, Folds, Tolerance, random_frames
from diffvqa_export.metric_export import ChosenWeights, MetricExport, ParitySource
from diffvqa_export.precision import PRECISIONS
from diffvqa_rt.metrics.diffvqa.config import VIEWS, DiffVQAConfig
from diffvqa_rt.models.diffvqa.checkpoints import STABLE_DIFFUSION_FILES, load_stable_diffusion, read_description
from diffvqa_rt.models.diffvqa.diffusion import DenoisingStep
from diffvqa_rt.models.diffvqa.network import DiffVQA, random_network
from diffvqa_rt.video import sample_frames

_FLOAT32_BYTES = 4
# Of the network that a Stable Diffusion folder does not hold: the head.
_HEAD_SEED = 0


def _encoder_inputs(config: DiffVQAConfig) -> tuple[Tensor, ...]:
    return (random_frames((3, config.view_size, config.view_size), 2),)


def _step_inputs(config: DiffVQAConfig) -> tuple[Tensor, ...]:
    z, z0 = (random_frames(config.latent_shape, 2) for _ in range(2))
    return z, z0, torch.tensor([config.sampler.steps - 1])


def _head_inputs(config: DiffVQAConfig) -> tuple[Tensor, ...]:
    count = len(VIEWS) * config.frames
    shapes = (config.latent_shape, *config.feature_shapes, (3, config.view_size, config.view_size))
    return tuple(random_frames(shape, count) for shape in shapes)


VAE_ENCODER = ExportStage(
    name="vae_encoder",
    tolerances={
        "fp32": Tolerance(relative=1e-5, reason="sums of up to 9 · 512 products, in another order, 20 layers deep"),
        "fp16": Tolerance(relative=1e-2, reason="20 layers that round to 11 bits"),
        "bf16": Tolerance(relative=6e-2, reason="20 layers that round to 8 bits"),
    },
    example_inputs=_encoder_inputs,
    kept_in_float32={
        "vae.encoder.conv_in": "reads the float32 frames; one in a thousand of the arithmetic",
        "vae.encoder.conv_norm_out": "prepares what conv_out writes",
        "vae.encoder.conv_out": "writes the latents; one in a thousand of the arithmetic",
        "vae.quant_conv": "writes the latents; 64 products a position",
    },
)
"""The views of a video to their latents."""

UNET_CONTROLLER = ExportStage(
    name="unet_controller",
    tolerances={
        "fp32": Tolerance(
            relative=1e-3, reason="rounding of ε (1e-6), which the cosine schedule's first step multiplies by 3,493"
        ),
        # Half precision's errors times 3,493 end at the latents' clamp.
        "fp16": Tolerance(relative=3e-2, reason="100 layers that round to 11 bits"),
        "bf16": Tolerance(relative=2e-1, reason="100 layers that round to 8 bits"),
    },
    example_inputs=_step_inputs,
    # The sampler stays in float32 too, since its tables, noise and latents are no modules: the cosine schedule's first
    # step multiplies what it is given by 3,493.
    kept_in_float32={
        "unet.conv_in": "reads the float32 latents; one in a thousand of the arithmetic",
        "controller.conv_in": "reads the float32 latents; one in a thousand of the arithmetic",
        "unet.conv_norm_out": "prepares what conv_out writes",
        "unet.conv_out": "writes the ε that the sampler multiplies; one in a thousand of the arithmetic",
    },
    folds=Folds(
        replaced=(
            "*.attn2.to_q.*",
            "*.attn2.to_k.*",
            "*.attn2.to_v.*",
            "*.attn2.to_out.0.weight",
            "*.time_emb_proj.*",
            "*.time_embedding.*",
        ),
        tables=DenoisingStep.tables,
        convert_tables=DenoisingStep.convert_tables,
    ),
)
"""One denoising step, with the sampler, the noise, the timesteps and the null text folded in."""

HEAD = ExportStage(
    name="head",
    # In float32 whatever the rest runs in.
    tolerances=dict.fromkeys(
        PRECISIONS, Tolerance(relative=1e-4, reason="sums in another order, over thousands of scan steps")
    ),
    example_inputs=_head_inputs,
    kept_in_float32={"*": "1 in 500 of the arithmetic, and its scan's decays underflow in half precision"},
    has_scan=True,
)
"""The last step's features and the frames to the score."""

STAGES = {stage.name: stage for stage in (VAE_ENCODER, UNET_CONTROLLER, HEAD)}


def _weights_of_stable_diffusion(preset: DiffVQAConfig, folder: Path) -> ChosenWeights:
    def load() -> DiffVQA:
        network = random_network(preset, _HEAD_SEED)
        load_stable_diffusion(network.extractor, folder)
        return network

    return ChosenWeights(preset, False, f"{folder.name}, with a random head", load)


def _dynamic_sizes(config: DiffVQAConfig) -> dict[str, int]:
    return {"frames": len(VIEWS) * config.frames}


def _activation_bytes(config: DiffVQAConfig) -> int:
    """The VAE's first level, the widest point of all: a few tensors of its size are alive at a time."""
    alive = 6
    level = len(VIEWS) * config.frames * config.vae.channels[0] * config.view_size**2
    return alive * level * _FLOAT32_BYTES


def _reference_bytes(config: DiffVQAConfig) -> int:
    shapes = [(3, config.view_size, config.view_size), *config.feature_shapes]
    # z0, and z before and after each step.
    shapes += [config.latent_shape] * (config.sampler.steps + 2)
    return len(VIEWS) * config.frames * sum(torch.Size(shape).numel() for shape in shapes) * _FLOAT32_BYTES


EXPORT = MetricExport(
    stages=STAGES,
    random_network=random_network,
    read_description=read_description,
    weights_in_folder=_weights_of_stable_diffusion,
    layout=STABLE_DIFFUSION_FILES,
    dynamic_sizes=_dynamic_sizes,
    activation_bytes=_activation_bytes,
    reference_bytes=_reference_bytes,
    parity_sources=lambda config, clip: {clip.name: ParitySource(frames=sample_frames(clip, config.frames))},
)
