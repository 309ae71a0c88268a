"""Weights in and out: our own safetensors files, a Stable Diffusion 2.1-base folder, a VideoMamba checkpoint."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.extras import needs_package
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.models.diffvqa.diffusion import DiffusionFeatureExtractor
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.models.diffvqa.tcab import TemporalCoherenceBlock
from diffvqa_rt.models.weights import (
    Weights,
    description_of,
    fill_module,
    network_from_state,
    one_line,
    read_checkpoint,
    read_safetensors,
    resize_position_grid,
)

STABLE_DIFFUSION_FILES = (
    "vae/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    *(f"tokenizer/{name}" for name in ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")),
)
"""What `load_stable_diffusion` reads of a folder in diffusers' layout."""

# The names that diffusers gave the VAE's attention before 0.18, as Stable Diffusion 2.1-base was published.
_OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Of RGB from 0 to 1, as torchvision and timm have them, and all of VideoMamba's training.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Under these VideoMamba's code looks for a checkpoint's weights, in this order.
_VIDEOMAMBA_WRAPPERS = ("model", "module")


def load_weights(path: Path) -> tuple[DiffVQA, bool]:
    """The network of a file that `save_weights` wrote, in evaluation mode, and whether it was trained.

    Raises:
        ValueError: the file is no safetensors file of a DiffVQA network, or a tensor is missing or of another shape.
    """
    config, is_trained = read_description(path)
    return network_from_state(DiffVQA, config, read_safetensors(path), path), is_trained


def read_description(path: Path) -> tuple[DiffVQAConfig, bool]:
    """The description of `load_weights`' network, and whether it was trained. Raises ValueError as that does."""
    return description_of(path, "DiffVQA", DiffVQAConfig.from_dict)


def load_stable_diffusion(extractor: DiffusionFeatureExtractor, folder: Path) -> None:
    """Fills VAE, UNet and null prompt from a folder in diffusers' layout; the Controller starts as the UNet.

    Reads `vae/` and `unet/` (diffusion_pytorch_model.safetensors), `text_encoder/` and `tokenizer/`.

    Raises:
        ValueError: a part of the folder is missing, or does not have this network's shapes.
    """
    vae_file, unet_file = (diffusers_file(folder, part) for part in ("vae", "unet"))
    fill_module(extractor.vae, read_autoencoder(vae_file, ("encoder.", "quant_conv.")), vae_file)
    fill_module(extractor.unet, read_safetensors(unet_file), unet_file)
    states = null_prompt_states(folder, tokens=extractor.null_prompt.shape[0])
    if states.shape != extractor.null_prompt.shape:
        raise ValueError(
            f"{folder}/text_encoder gives states {tuple(states.shape)}; expected {tuple(extractor.null_prompt.shape)}"
        )
    extractor.null_prompt.copy_(states)
    extractor.controller.copy_from_unet(extractor.unet)


def read_autoencoder(path: Path, parts: tuple[str, ...]) -> Weights:
    """The tensors of an `AutoencoderKL` file whose names begin with one of `parts`, under diffusers' present names.

    Raises:
        ValueError: the file can't be read.
    """
    return dict(
        _current_layout(name, tensor) for name, tensor in read_safetensors(path).items() if name.startswith(parts)
    )


@torch.inference_mode()
def null_prompt_states(folder: Path, tokens: int) -> Tensor:
    """The text encoder's last hidden states for the empty prompt, [tokens, text_width] float32."""
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise ValueError(needs_package("reading a Stable Diffusion folder", "transformers", "train")) from error
    for part in ("tokenizer", "text_encoder"):
        if not (folder / part).is_dir():
            raise ValueError(
                f"{folder} has no {part}/; expected a Stable Diffusion 2.1-base folder in diffusers' layout"
            )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, local_files_only=True)
        ids = tokenizer("", padding="max_length", max_length=tokens, return_tensors="pt").input_ids
    except Exception as error:  # transformers documents no exception type for a folder that it cannot use
        raise ValueError(f"{folder}'s tokenizer or text_encoder cannot be read: {one_line(error)}") from error
    return encoder.eval()(ids).last_hidden_state[0]


def load_videomamba(block: TemporalCoherenceBlock, path: Path) -> None:
    """Fills a TCAB from a VideoMamba checkpoint, of videos or of images (safetensors, or a .pth with tensors alone).

    VideoMamba's networks take frames with ImageNet's mean and deviation. A TCAB takes [−1, 1], so the map from the one
    to the other goes into the patch embedding, exactly.

    The classifier head is left out; position embeddings of another resolution or clip length are interpolated, as
    VideoMamba's own fine-tuning does. An image checkpoint is inflated as it does too: its patches are of one frame, and
    its temporal embedding begins at zero.

    Raises:
        ValueError: the file can't be read, or is of another width or depth.
    """
    weights = read_checkpoint(path, "a VideoMamba checkpoint", _VIDEOMAMBA_WRAPPERS)
    # At least single precision: half of it cannot be interpolated everywhere.
    kept = {
        name: tensor if tensor.dtype == torch.float64 else tensor.float()
        for name, tensor in weights.items()
        if not name.startswith("head.")
    }
    if missing := {"patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"} - kept.keys():
        raise ValueError(f"{path} does not fit this network: it has no {', no '.join(sorted(missing))}")
    if kept["patch_embed.proj.weight"].ndim == 4:
        kept["patch_embed.proj.weight"] = kept["patch_embed.proj.weight"].unsqueeze(2)
        kept.setdefault("temporal_pos_embedding", torch.zeros_like(block.temporal_pos_embedding))
    kept["pos_embed"] = resize_position_grid(kept["pos_embed"], block.pos_embed.shape[1])
    if "temporal_pos_embedding" in kept:
        kept["temporal_pos_embedding"] = _resize_line(
            kept["temporal_pos_embedding"], block.temporal_pos_embedding.shape[1]
        )
    kept |= _with_normalization(kept["patch_embed.proj.weight"], kept["patch_embed.proj.bias"])
    fill_module(block, kept, path)


def diffusers_file(folder: Path, part: str) -> Path:
    """The weights of a part of a Stable Diffusion folder. Raises ValueError where they are missing."""
    path = folder / part / "diffusion_pytorch_model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected a Stable Diffusion 2.1-base folder in diffusers' layout")
    return path


def _current_layout(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    parts = name.split(".")
    if "attentions" not in parts:
        return name, tensor
    current = ".".join(_OLD_ATTENTION_NAMES.get(part, part) for part in parts)
    # The old layout kept the attention's projections as 1×1 convolutions.
    return current, tensor[..., 0, 0] if tensor.ndim == 4 else tensor


def _with_normalization(weight: Tensor, bias: Tensor) -> Weights:
    """The patch embedding that gives for x in [−1, 1] what this one, [C, 3, …], gives for (0.5 x + 0.5 − mean) / std.

    Exact, since a patch has no padding, which would be another value after the map.
    """
    if weight.ndim != 5 or weight.shape[1] != len(_IMAGENET_MEAN) or bias.shape != weight.shape[:1]:
        return {}  # which the shape check refuses
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
    shift = torch.einsum("oi...,i->o", weight.double(), (0.5 - mean) / std)
    scaled = weight.double() * (0.5 / std)[:, None, None, None]
    return {"patch_embed.proj.weight": scaled, "patch_embed.proj.bias": bias.double() + shift}


def _resize_line(embedding: Tensor, frames: int) -> Tensor:
    """[1, T, C] to [1, frames, C], linearly."""
    if embedding.ndim != 3 or embedding.shape[1] in (0, frames):
        return embedding
    return F.interpolate(embedding.transpose(1, 2), size=frames, mode="linear").transpose(1, 2)
