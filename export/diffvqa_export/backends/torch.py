"""The backend `torch`: the weights for the network in Python."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from diffvqa_export.context import BuildContext, Builder, BuildRequest
from diffvqa_rt.engines.manifest import BackendRecord
from diffvqa_rt.errors import EngineBuildError


def torch_builder(request: BuildRequest) -> Builder:
    return write_torch_weights


def write_torch_weights(context: BuildContext) -> BackendRecord:
    """Writes the weights in float32, whatever the precision of the others: it is their baseline."""
    file = "torch/weights.safetensors"

    def make(folder: Path) -> dict[str, Any]:
        (folder / "torch").mkdir()
        state = {name: tensor.contiguous() for name, tensor in context.network.state_dict().items()}
        try:
            save_file(state, folder / file)
        except SafetensorError as error:  # a full disk among others
            raise EngineBuildError(f"{folder / file} cannot be written: {error}") from error
        return {"file": file}

    step = context.do("torch: write the weights", {}, make)
    return context.record(
        dict.fromkeys(context.export.stages, step),
        runtime=f"torch {torch.__version__}",
        precision="fp32",
        device="cpu",
        scan="numba where it is installed, plain torch else",
    )
