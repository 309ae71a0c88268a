"""The weights of the epoch that a validation likes best, beside a run's checkpoint."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from diffvqa_rt.files import write_whole
from diffvqa_rt.models.weights import fill_module, read_safetensors, write_safetensors
from diffvqa_rt.training.loop import FitConfig


class BestWeights:
    """The best weights so far, of the first of equals; a run that was stopped ends with those of one that was not.

    Args:
        path: gets a safetensors file.
        config, describes: the run, as `fit` has it; what another one left there counts for nothing.
    """

    def __init__(self, path: Path, module: nn.Module, config: FitConfig, describes: Mapping[str, Any]) -> None:
        run = hashlib.sha256(json.dumps([asdict(config), describes], sort_keys=True).encode()).hexdigest()
        self._path, self._module, self._run = path, module, run
        self.value = -math.inf
        if path.exists():
            try:
                with safe_open(path, framework="pt") as file:
                    metadata = file.metadata() or {}
            except (SafetensorError, OSError):
                metadata = {}
            if metadata.get("run") == run:
                self.value = float(json.loads(metadata["value"]))

    def consider(self, value: float) -> None:
        """Keeps the module's weights where the value is above all before; one that is no number never is."""
        if value > self.value:
            metadata = {"run": self._run, "value": json.dumps(value)}
            write_whole(self._path, lambda part: write_safetensors(self._module.state_dict(), part, metadata))
            self.value = value

    def restore(self) -> None:
        """Puts the best weights into the module, if there was a value at all."""
        if self.value > -math.inf:
            fill_module(self._module, read_safetensors(self._path), self._path)
