"""ONNX Runtime on the CPU."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from diffvqa_rt.config import DiffVQAConfig
from diffvqa_rt.engines.manifest import BackendRecord, read_verified
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.specs import EngineSpec, engine_specs


class OnnxEngine:
    """An ONNX model behind the engine protocol.

    A per-frame engine runs its frames in `threads` shares, one single-threaded run each: without a barrier after every
    node two cores finish a tiny step 1.2 times sooner, and the shares stay in their core's cache. Frames don't see each
    other, so no bit depends on the cut (a test holds that).
    """

    def __init__(self, spec: EngineSpec, model: bytes, threads: int) -> None:
        self.spec = spec
        self._shares = threads if spec.is_per_frame else 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if spec.is_per_frame else threads
        # ONNX Runtime's warnings are about its own optimiser; errors reach the caller as exceptions.
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._pool = ThreadPoolExecutor(self._shares) if self._shares > 1 else None

    def __call__(self, inputs: Mapping[str, NDArray], outputs: Sequence[str] | None = None) -> dict[str, NDArray]:
        self.spec.check_inputs(inputs)
        names = list(outputs) if outputs is not None else [output.name for output in self.spec.outputs]
        cut = {spec.name for spec in self.spec.inputs if len(spec.shape) > 1}
        frames = inputs[self.spec.inputs[0].name].shape[1]
        if self._pool is None or frames < self._shares:
            results = [self._session.run(names, inputs)]
        else:
            shares = [
                {name: array[:, part] if name in cut else array for name, array in inputs.items()}
                for part in _parts(frames, self._shares)
            ]
            results = list(self._pool.map(lambda share: self._session.run(names, share), shares))
        if len(results) == 1:
            return dict(zip(names, results[0], strict=True))
        return {name: np.concatenate(parts, axis=1) for name, *parts in zip(names, *results, strict=True)}


def _parts(count: int, shares: int) -> list[slice]:
    bounds = [count * share // shares for share in range(shares + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def open_onnx(folder: Path, config: DiffVQAConfig, record: BackendRecord, threads: int) -> dict[str, OnnxEngine]:
    """The folder's ONNX engines. Raises EngineMismatchError for a file that is not what the manifest says."""
    engines = {}
    for name, spec in engine_specs(config).items():
        file = record.engines.get(name, "")
        if file not in record.files:
            raise EngineMismatchError(f"{folder}: the manifest lists no {name} for onnx; build the engines again")
        model = read_verified(folder, file, record.files[file])
        try:
            engines[name] = OnnxEngine(spec, model, threads)
        except Exception as error:  # ONNX Runtime's own exception classes share no documented base
            raise EngineMismatchError(
                f"onnxruntime {onnxruntime.__version__} cannot open {folder / file}, built by {record.runtime}: {error}"
            ) from error
    return engines
