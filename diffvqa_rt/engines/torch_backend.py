"""Eager torch: the reference that the engines are compared with, and the baseline that they are measured against."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from diffvqa_rt.engines.manifest import BackendRecord, Manifest
from diffvqa_rt.engines.verification import read_verified
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.forking import renew_in_children
from diffvqa_rt.models.registry import models_of
from diffvqa_rt.models.weights import network_from_state
from diffvqa_rt.specs import MANIFEST_NAME, EngineSpec


class TorchEngine:
    """A stage's module behind the engine protocol."""

    max_videos = None

    def __init__(self, spec: EngineSpec, module: nn.Module) -> None:
        self.spec = spec
        self._module = module
        self._worker: ThreadPoolExecutor | None = None
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Has a forked child run in a new thread: in this one, OpenMP would wait for threads that stayed behind."""
        self._worker = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))

    def __call__(self, inputs: Mapping[str, NDArray], outputs: Sequence[str] | None = None) -> dict[str, NDArray]:
        self.spec.check_inputs(inputs)
        if self._worker is None:
            return self._run(inputs, outputs)
        return self._worker.submit(self._run, inputs, outputs).result()

    @torch.inference_mode()
    def _run(self, inputs: Mapping[str, NDArray], outputs: Sequence[str] | None) -> dict[str, NDArray]:
        # `from_numpy` warns about read-only arrays, and the network never writes to its inputs.
        tensors = [torch.from_numpy(inputs[spec.name].copy(order="K")) for spec in self.spec.inputs]
        results = {spec.name: t.numpy() for spec, t in zip(self.spec.outputs, self._module(*tensors), strict=True)}
        return {name: results[name] for name in outputs} if outputs is not None else results


def torch_engines(specs: Mapping[str, EngineSpec], modules: Mapping[str, nn.Module]) -> dict[str, TorchEngine]:
    """A network's stages as engines."""
    return {name: TorchEngine(spec, modules[name]) for name, spec in specs.items()}


def open_torch(folder: Path, manifest: Manifest, record: BackendRecord, threads: int) -> dict[str, TorchEngine]:
    """The folder's weights in the torch network. Raises EngineMismatchError if they aren't what the manifest says."""
    torch.set_num_threads(threads)
    models = models_of(manifest.metric_name)
    ((name, sha256),) = record.files.items()
    try:
        weights = load_safetensors(read_verified(folder, name, sha256))
        network = network_from_state(models.network, manifest.config, weights, folder / name)
    except (ValueError, SafetensorError) as error:
        raise EngineMismatchError(
            f"{folder / name} does not fit the network of {MANIFEST_NAME}; build the engines again"
        ) from error
    engines = torch_engines(manifest.engine_specs(), models.stages(network))
    return {name: engines[name] for name in record.engines}
