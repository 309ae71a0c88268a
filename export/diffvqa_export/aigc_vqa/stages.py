"""AIGC-VQA's export: four stages, of which the first three read nothing of each other, and what stays in float32."""

from pathlib import Path

import torch
from torch import Tensor, nn

from diffvqa_export.export_stage import EXAMPLE_VIDEOS, ExportStage, Folds, Tolerance, random_frames
from diffvqa_export.metric_export import ChosenWeights, MetricExport, ParitySource
from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.metrics.aigc_vqa.metric import VOCABULARY
from diffvqa_rt.metrics.aigc_vqa.presets import find_vocabulary
from diffvqa_rt.models.aigc_vqa.checkpoints import read_description
from diffvqa_rt.models.aigc_vqa.network import AigcVqa, random_network
from diffvqa_rt.models.aigc_vqa.published import PUBLISHED_SAFETENSORS, find_published, load_published
from diffvqa_rt.models.aigc_vqa.swin import FoldedWindowAttention
from diffvqa_rt.specs import Precision
from diffvqa_rt.video import sample_frames

_FLOAT32_BYTES = 4
# Of the network that a folder of checkpoints does not hold.
_REST_SEED = 0
_EXAMPLE_FRAMES = 3
# The first fits the clip that builds take by default.
_PROMPTS = ("a green toy frog on a wooden table", "two red trains at night")

# Of all four (SPEC §11): the largest errors that its prototype had are 1.3e-6, 1.1e-3 and 8e-3.
_TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(relative=1e-5, reason="sums of up to 4 · 1024 products, in another order, 48 layers deep"),
    "fp16": Tolerance(relative=5e-3, reason="48 layers that round to 11 bits"),
    "bf16": Tolerance(relative=4e-2, reason="48 layers that round to 8 bits"),
}
_NORM = "sums squares, and is followed by a product in half precision all the same"
_HEAD = "one in ten thousand of the arithmetic, and the score itself"


def _biases(module: nn.Module) -> list[Tensor]:
    return [part.constant for part in module.modules() if isinstance(part, FoldedWindowAttention)]


def _convert_biases(module: nn.Module, dtype: torch.dtype) -> None:
    for part in module.modules():
        if isinstance(part, FoldedWindowAttention):
            part.constant = part.constant.to(dtype)


def _views(config: AigcVqaConfig) -> tuple[Tensor, ...]:
    return (random_frames((3, config.view_size, config.view_size), config.frames),)


def _some_frames(config: AigcVqaConfig) -> tuple[Tensor, ...]:
    return (random_frames((3, config.view_size, config.view_size), _EXAMPLE_FRAMES),)


def _tokens_and_prompts(config: AigcVqaConfig) -> tuple[Tensor, ...]:
    prompts = (EXAMPLE_VIDEOS, config.text.prompt_tokens)
    return (
        torch.randn(EXAMPLE_VIDEOS, config.frames, config.frame_tokens, config.vision.width),
        torch.randint(config.text.vocabulary, prompts),
        (torch.arange(prompts[1]) < prompts[1] // 2).long().expand(prompts),
    )


TECHNICAL = ExportStage(
    name="technical",
    tolerances=_TOLERANCES,
    example_inputs=_views,
    # The softmax of the windows too. Their bias is in half precision: −100 fits, and it is most of the file.
    kept_in_float32={
        "branch.backbone.patch_embed.proj": "reads the pixels; one in a hundred of the arithmetic",
        "*norm*": _NORM,
        "branch.head.*": _HEAD,
    },
    folds=Folds(replaced=(), tables=_biases, convert_tables=_convert_biases),
)
"""The fragments to a map of distortion, with the bias and the mask of the windows folded in."""

AESTHETIC = ExportStage(
    name="aesthetic",
    tolerances=_TOLERANCES,
    example_inputs=_views,
    kept_in_float32={
        "branch.backbone.downsample_layers.0.0": "reads the pixels; one in a hundred of the arithmetic",
        "branch.backbone.downsample_layers.0.1": _NORM,
        "branch.backbone.downsample_layers.[123].0": _NORM,
        "*norm": _NORM,
        "branch.head.*": _HEAD,
    },
)
"""The shrunken frames to a map of what they show."""

VISION = ExportStage(
    name="vision",
    tolerances=_TOLERANCES,
    example_inputs=_some_frames,
    kept_in_float32={
        "branch.patch_embed.proj": "reads the pixels; one in three hundred of the arithmetic",
        "*norm*": _NORM,
    },
)
"""Frame by frame, to the tokens that prompts look at."""

ALIGNMENT = ExportStage(
    name="alignment",
    tolerances=_TOLERANCES,
    example_inputs=_tokens_and_prompts,
    error_floor=1.0,  # s_a is one number of unit variance
    # The embeddings and the softmax of the text too.
    kept_in_float32={
        "adapter.conv": "three multiply-adds a channel, between two products",
        "*LayerNorm": _NORM,
        "reward.*": _HEAD,
    },
)
"""The frames' tokens and a prompt to how well they fit: adapter, text encoder and reward."""

STAGES = {stage.name: stage for stage in (TECHNICAL, AESTHETIC, VISION, ALIGNMENT)}


def _weights_of_checkpoints(preset: AigcVqaConfig, folder: Path) -> ChosenWeights:
    """A folder of published checkpoints, as `find_published` reads it; the rest is random."""
    files = find_published(folder)

    def load() -> AigcVqa:
        network = random_network(preset, _REST_SEED)
        load_published(network, files)
        return network

    return ChosenWeights(preset, False, f"{folder.name}: {', '.join(files)}; the rest random", load)


def _parity_sources(config: AigcVqaConfig, clip: Path) -> dict[str, ParitySource]:
    """The clip with two prompts: a network that does not read them gives both one score."""
    frames = sample_frames(clip, config.frames)
    return {f"{clip.name}, “{prompt}”": ParitySource(frames=frames, prompt=prompt) for prompt in _PROMPTS}


def _prompt_files(config: AigcVqaConfig, vocabulary: Path | None) -> dict[str, Path]:
    return {VOCABULARY: find_vocabulary(config, vocabulary)}


def _activation_bytes(config: AigcVqaConfig) -> int:
    """The scores of the first windows, a number for each query, key and head; the comparison runs two videos."""
    alive = 2 * 4
    depth, rows, columns = config.stage_grids[0]
    in_window = min(depth, config.swin.window[0]) * config.swin.window[1] * config.swin.window[2]
    return alive * config.swin.heads[0] * depth * rows * columns * in_window * _FLOAT32_BYTES


def _reference_bytes(config: AigcVqaConfig) -> int:
    pixels = 2 * config.frames * 3 * config.view_size**2  # both views: as bytes, and normalised
    tokens = config.frames * config.frame_tokens * config.vision.width
    return len(_PROMPTS) * (pixels * (1 + _FLOAT32_BYTES) + tokens * _FLOAT32_BYTES)


EXPORT = MetricExport(
    stages=STAGES,
    random_network=random_network,
    read_description=read_description,
    weights_in_folder=_weights_of_checkpoints,
    layout=PUBLISHED_SAFETENSORS,
    dynamic_sizes=lambda config: {"frames": config.frames},
    activation_bytes=_activation_bytes,
    reference_bytes=_reference_bytes,
    parity_sources=_parity_sources,
    prompt_files=_prompt_files,
)
