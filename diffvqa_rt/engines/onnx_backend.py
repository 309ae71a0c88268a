"""ONNX Runtime on the CPU."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from diffvqa_rt.engines.manifest import BackendRecord, Manifest, read_verified
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.specs import MANIFEST_NAME, EngineSpec, engine_specs

PROVENANCE_KEY = "diffvqa_provenance"
"""Where an ONNX file's metadata holds `Manifest.provenance`."""


class OnnxEngine:
    """An ONNX model behind the engine protocol.

    A per-frame engine runs its frames in up to `threads` shares, one single-threaded run each: without a barrier after
    every node two cores finish a tiny step 1.2 times sooner, and the shares stay in their core's cache. Frames don't
    see each other, so no bit depends on the cut (a test holds that). The head is one single-threaded run: its scan
    steps through tiny nodes, where a second thread gains 7 % on free cores and costs up to 2.5 times on busy ones.
    """

    def __init__(self, spec: EngineSpec, model: bytes, threads: int) -> None:
        self.spec = spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Planned reuse of buffers costs `tiny` 6 % of its time and 670 MB in the place of 450 (two Xeon cores,
        # onnxruntime 1.31).
        options.enable_mem_reuse = False
        # ONNX Runtime's warnings are about its own optimiser; errors reach the caller as exceptions.
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if spec.is_per_frame and threads > 1 else None

    @property
    def provenance(self) -> str:
        """What the file says it was built from; empty if it says nothing."""
        return self._session.get_modelmeta().custom_metadata_map.get(PROVENANCE_KEY, "")

    def __call__(self, inputs: Mapping[str, NDArray], outputs: Sequence[str] | None = None) -> dict[str, NDArray]:
        self.spec.check_inputs(inputs)
        names = list(outputs) if outputs is not None else [output.name for output in self.spec.outputs]
        cut = {spec.name for spec in self.spec.inputs if len(spec.shape) > 1}
        frames = inputs[self.spec.inputs[0].name].shape[1]
        if self._pool is None or frames < 2:
            return dict(zip(names, self._session.run(names, inputs), strict=True))
        shares = [
            {name: array[:, part] if name in cut else array for name, array in inputs.items()}
            for part in _parts(frames, min(frames, self._threads))
        ]
        results = list(self._pool.map(lambda share: self._session.run(names, share), shares))
        return {name: np.concatenate(parts, axis=1) for name, *parts in zip(names, *results, strict=True)}


def _parts(count: int, shares: int) -> list[slice]:
    bounds = [count * share // shares for share in range(shares + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def open_onnx(folder: Path, manifest: Manifest, record: BackendRecord, threads: int) -> dict[str, OnnxEngine]:
    """The folder's ONNX engines. Raises EngineMismatchError for a file that is not what the manifest says."""
    engines = {}
    for name, spec in engine_specs(manifest.config).items():
        file = record.engines[name].file
        model = read_verified(folder, file, record.files[file])
        try:
            engines[name] = OnnxEngine(spec, model, threads)
        except Exception as error:  # ONNX Runtime's own exception classes share no documented base
            raise EngineMismatchError(
                f"onnxruntime {onnxruntime.__version__} cannot open {folder / file}, built by {record.runtime}: {error}"
            ) from error
        if engines[name].provenance != manifest.provenance:
            raise EngineMismatchError(
                f"{folder / file} was built from another network or other weights than {MANIFEST_NAME} says; "
                "build the engines again"
            )
    return engines
