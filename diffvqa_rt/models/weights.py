"""Weights as safetensors, for every network: read, written, put into modules, hashed."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

Weights = dict[str, Tensor]

# So many names stand in an error.
_NAMED = 3


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and values of a network's state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


Network = TypeVar("Network", bound=nn.Module)


def network_from_state(make_network: Callable[[Any], Network], config: Any, weights: Weights, path: Path) -> Network:
    """The network with these tensors for its weights, in float32 and evaluation mode; `path` is what an error names.

    Raises:
        ValueError: a tensor is missing or of another shape.
    """
    # No storage of its own first: at full size the weights are 5 GB, and once is enough.
    with torch.device("meta"):
        network = make_network(config)
    # A file may hold half precision; BatchNorm's counter is an integer.
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    fill_module(network, weights, path, assign=True)
    return network.eval()


def save_weights(network: Any, path: Path, *, is_trained: bool, dtype: torch.dtype = torch.float32) -> None:
    """One safetensors file with every weight, in `dtype`, and, in its metadata, the description `network.config`."""
    metadata = {"config": json.dumps(network.config.as_dict()), "is_trained": json.dumps(is_trained)}
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    write_safetensors(weights, path, metadata)


Config = TypeVar("Config")


def description_of(path: Path, title: str, config_from_dict: Callable[[dict[str, Any]], Config]) -> tuple[Config, bool]:
    """The description of the network whose weights `save_weights` wrote, and whether it was trained.

    Args:
        title: the metric's, for the error.
        config_from_dict: the inverse of the config's `as_dict`.

    Raises:
        ValueError: the file is no safetensors file, or not of such a network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such weights file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); weights are never read from pickles") from error
    if "config" not in metadata:
        raise ValueError(f"{path} does not describe a {title} network; expected a file that diffvqa_rt saved")
    try:
        is_trained = bool(json.loads(metadata.get("is_trained", "false")))
        return config_from_dict(json.loads(metadata["config"])), is_trained
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not describe a {title} network ({error}); it is of another metric (--metric), or of "
            "another version of this one, and is to be saved again"
        ) from error


def fill_module(module: nn.Module, weights: Weights, path: Path, *, assign: bool = False) -> None:
    """Raises ValueError, naming `path`, where the tensors are not the module's."""
    try:
        module.load_state_dict(weights, assign=assign)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit this network: {one_line(error)}") from error


def renamed(name: str, patterns: Mapping[str, str]) -> str:
    """The name after each pattern (a regular expression) has been replaced, one after the other."""
    for pattern, replacement in patterns.items():
        name = re.sub(pattern, replacement, name)
    return name


def check_names(weights: Weights, path: Path, *, expected: Collection[str], optional: Collection[str] = ()) -> None:
    """Raises ValueError, naming `path`, where a checkpoint lacks what is expected or has what is not even optional."""
    complaints = [
        f"{verb} {', '.join(names[:_NAMED])}{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}"
        for verb, names in (
            ("it has no", [name for name in expected if name not in weights]),
            ("this network has no", [name for name in weights if name not in expected and name not in optional]),
        )
        if names
    ]
    if complaints:
        raise ValueError(f"{path} does not fit this network: {', and '.join(complaints)}")


def read_safetensors(path: Path) -> Weights:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {one_line(error)}") from error


def read_checkpoint(path: Path, kind: str, wrappers: Sequence[str] = ()) -> Weights:
    """The tensors of a foreign checkpoint: a safetensors file, or a pickle of tensors alone (`weights_only`).

    Args:
        kind: an article and what the file ought to be, for the error.
        wrappers: the names under which the tensors may be, the first that is there; else they are the file.

    Raises:
        ValueError: the file can't be read, or holds something else.
    """
    try:
        weights: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except Exception as error:  # torch.load documents no exception type for a file that is not its own
        raise ValueError(f"{path} is not {kind}: {one_line(error)}") from error
    if not isinstance(weights, dict):
        raise ValueError(f"{path} is not {kind}: it holds a {type(weights).__name__}")
    weights = next((weights[name] for name in wrappers if name in weights), weights)
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError(f"{path} is not {kind}: it holds something else than tensors by name")
    return {str(name): tensor for name, tensor in weights.items()}


def resize_position_grid(embedding: Tensor, tokens: int) -> Tensor:
    """Position embeddings [1, 1 + side², C] to [1, tokens, C]: bicubic over the grid, the class token's own kept."""
    if embedding.ndim != 3 or embedding.shape[1] < 2:
        return embedding  # what is no line of tokens, the shape check refuses
    old, new = (math.isqrt(count - 1) for count in (embedding.shape[1], tokens))
    if embedding.shape[1] == tokens or old * old + 1 != embedding.shape[1]:
        return embedding  # what is no square grid, the shape check refuses
    grid = embedding[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([embedding[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file. Raises OSError where that fails, as other files' writers do."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, path, dict(metadata) if metadata else None)
    except SafetensorError as error:  # of a full disk among others
        raise OSError(str(error)) from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
