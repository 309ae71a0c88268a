"""A training run on disk: one safetensors file with the weights that learn, Adam's moments, and the steps done."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.files import write_whole
from diffvqa_rt.models.weights import write_safetensors

RUN = "run"
"""The section of a description that holds how to train; others hold what on."""

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
# Of the description. The first had one level, where a key of one part could hide another part's.
_FORMAT = "2"


class Checkpoint:
    """The state of a run. Written to a file beside it and then renamed: a kill leaves the old one or the new one.

    Args:
        description: what decides the run's result, in sections; kept in the file, and compared.
    """

    def __init__(
        self, path: Path, trained: nn.Module, optimizer: torch.optim.AdamW, description: Mapping[str, Any]
    ) -> None:
        self._path = path
        self._trained = trained
        self._optimizer = optimizer
        # Through JSON, as a file gives it back.
        self._description = json.loads(json.dumps(description))
        self._moments: dict[str, Tensor] = {}

    def load(self, scaler: Any = None) -> int:
        """The number of steps that are done, 0 if there is no file yet; the weights are then those after them.

        Raises:
            TrainingError: the file is of a run with another description, or is no checkpoint.
        """
        if not self._path.exists():
            return 0
        tensors, metadata = self._read()
        step = int(metadata["step"])
        weights = {name.removeprefix("weights."): x for name, x in tensors.items() if name.startswith("weights.")}
        try:
            self._trained.load_state_dict(weights)
        except RuntimeError as error:
            raise TrainingError(f"{self._path} does not fit this network; delete it to start again") from error
        self._moments = {name: tensor for name, tensor in tensors.items() if not name.startswith("weights.")}
        if scaler is not None and "scaler" in metadata:
            scaler.load_state_dict(json.loads(metadata["scaler"]))
        return step

    def check(self) -> None:
        """Raises TrainingError as `load` does, and changes nothing."""
        if self._path.exists():
            self._read()

    def _read(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                # An open file is no mapping, and cannot be iterated itself.
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            kept, _ = dict(json.loads(metadata["description"])), int(metadata["step"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise TrainingError(f"{self._path} is no checkpoint ({error}); delete it to start again") from error
        if metadata.get("format") != _FORMAT:
            raise TrainingError(
                f"{self._path} is of another version of diffvqa_rt, whose checkpoints do not tell all that decides a "
                "run; choose another folder, or delete that one to start again"
            )
        if differences := _differences(kept, self._description):
            raise TrainingError(
                f"{self._path} is of a run {', and '.join(differences)}; choose another folder, or delete that one"
            )
        return tensors, metadata

    def restore_moments(self, device: torch.device) -> None:
        """Gives the optimizer what `load` found, on the device where its parameters now are."""
        for name, parameter in self._learning():
            if moments := {key: self._moments[f"{key}.{name}"] for key in _MOMENTS if f"{key}.{name}" in self._moments}:
                # Adam keeps its step count on the CPU.
                self._optimizer.state[parameter] = {
                    key: moment if key == "step" else moment.to(device) for key, moment in moments.items()
                }

    def save(self, step: int, scaler: Any = None) -> None:
        """Keeps the state after so many steps.

        Raises:
            TrainingError: it is not finite, and the file before it stays.
            FileWriteError: it cannot be written.
        """
        weights = self._trained.state_dict()
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise TrainingError(f"the weights are not finite at step {step}; lower the learning rate")
        tensors = {f"weights.{name}": tensor for name, tensor in weights.items()}
        for name, parameter in self._learning():
            tensors |= {f"{key}.{name}": tensor for key, tensor in self._optimizer.state.get(parameter, {}).items()}
        metadata = {"step": str(step), "description": json.dumps(self._description), "format": _FORMAT}
        if scaler is not None:
            metadata["scaler"] = json.dumps(scaler.state_dict())
        write_whole(self._path, lambda part: write_safetensors(tensors, part, metadata))

    def _learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self._trained.named_parameters() if p.requires_grad)


def _differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences of two descriptions, each such as `whose schedule is 'cosine', now it is 'constant'`."""
    before, after = dict(_leaves(kept)), dict(_leaves(now))
    paths = dict.fromkeys([*after, *before])
    names = Counter(path[-1] for path in paths)
    return [
        # A name stands alone where it is the run's own, or nobody else's.
        f"whose {path[-1] if path[0] == RUN or names[path[-1]] == 1 else '.'.join(path)} is {before.get(path)!r}, "
        f"now it is {after.get(path)!r}"
        for path in paths
        if before.get(path) != after.get(path)
    ]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values at the ends of nested mappings, each with the keys that lead to it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    else:
        yield path, value
