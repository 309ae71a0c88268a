"""Open an engine folder, verify it, run it.

    manifest, engines = open_engines(Path("build/tiny"))
    z0 = engines["vae_encoder"]({"frames": frames})["z0"]

One protocol for every runtime: arrays in by name, arrays out by name, as `diffvqa_rt.specs` declares them.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

from numpy.typing import NDArray

from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.specs import EngineSpec

BackendName = Literal["onnx", "torch"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


class Engine(Protocol):
    spec: EngineSpec

    def __call__(self, inputs: Mapping[str, NDArray], outputs: Sequence[str] | None = None) -> dict[str, NDArray]:
        """The named outputs (all of them by default). Raises ValueError where the inputs don't fit the spec."""
        ...


def available_cpus() -> int:
    """The processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_engines(
    folder: Path, backend: BackendName = "onnx", threads: int | None = None
) -> tuple[Manifest, Mapping[str, Engine]]:
    """The folder's manifest and its engines by name, every file verified first.

    Raises:
        EngineMismatchError: the folder is not one, a file was changed or is not listed, or the backend is not in it.
        ValueError: no such backend, or fewer threads than one.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; expected at least 1")
    manifest = Manifest.read(folder)
    record = manifest.backend(backend, folder)
    manifest.refuse_unlisted(folder)
    try:
        if backend == "torch":
            from diffvqa_rt.engines.torch_backend import open_torch

            return manifest, open_torch(folder, manifest, record, threads or available_cpus())
        from diffvqa_rt.engines.onnx_backend import open_onnx

        return manifest, open_onnx(folder, manifest, record, threads or available_cpus())
    except ModuleNotFoundError as error:
        extra = "export" if backend == "torch" else "cpu"
        raise EngineMismatchError(
            f"the {backend} backend needs {error.name}, which is not installed: pip install 'diffvqa-rt[{extra}]'"
        ) from error


__all__ = ["BACKENDS", "BackendName", "Engine", "Manifest", "available_cpus", "open_engines"]
