"""A training run on disk: one safetensors file with the weights that learn, Adam's moments, and the steps done."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.training.files import write_whole

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Checkpoint:
    """The state of a run. Written to a file beside it and then renamed: a kill leaves the old one or the new one.

    Args:
        description: what decides the run's result; kept in the file, and compared.
    """

    def __init__(
        self, path: Path, trained: nn.Module, optimizer: torch.optim.AdamW, description: dict[str, Any]
    ) -> None:
        self._path = path
        self._trained = trained
        self._optimizer = optimizer
        # Through JSON, as a file gives it back.
        self._description = json.loads(json.dumps(description))
        self._moments: dict[str, Tensor] = {}

    def load(self, scaler: Any = None) -> int:
        """How many steps are done; the weights are then those after them. 0 if there is no file yet.

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
            kept, _ = json.loads(metadata["description"]), int(metadata["step"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise TrainingError(f"{self._path} is no checkpoint ({error}); delete it to start again") from error
        for name in [*self._description, *kept]:
            if kept.get(name) != self._description.get(name):
                raise TrainingError(
                    f"{self._path} is of a run whose {name} is {kept.get(name)!r}, now it is "
                    f"{self._description.get(name)!r}; choose another folder, or delete that one"
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
            TrainingError: it is not finite, and the file before it stays; or it cannot be written.
        """
        weights = self._trained.state_dict()
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise TrainingError(f"the weights are not finite at step {step}; lower the learning rate")
        tensors = {f"weights.{name}": tensor for name, tensor in weights.items()}
        for name, parameter in self._learning():
            tensors |= {f"{key}.{name}": tensor for key, tensor in self._optimizer.state.get(parameter, {}).items()}
        metadata = {"step": str(step), "description": json.dumps(self._description)}
        if scaler is not None:
            metadata["scaler"] = json.dumps(scaler.state_dict())
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(self._path, lambda part: save_file(kept, part, metadata))

    def _learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self._trained.named_parameters() if p.requires_grad)
