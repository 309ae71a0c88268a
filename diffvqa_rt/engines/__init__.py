"""Open an engine folder, verify it, run it.

    manifest, engines = open_engines(Path("build/tiny"))
    z0 = engines["vae_encoder"]({"frames": frames})["z0"]

One protocol for every runtime: arrays in by name, arrays out by name, as `diffvqa_rt.specs` declares them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from diffvqa_rt.checks import whole
from diffvqa_rt.engines.cpus import available_cpus
from diffvqa_rt.engines.manifest import BackendRecord, Manifest
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.specs import Engine

BackendName = Literal["onnx", "onnx-cuda", "tensorrt", "tensorrt-rtx", "aot-inductor", "torch"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)

EXTRAS: dict[BackendName, str] = {
    "onnx": "cpu",
    "onnx-cuda": "gpu",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
    "aot-inductor": "export",
    "torch": "export",
}
"""What to install for each."""


MAX_THREADS = 2**16
"""More than any machine's processors, and fewer than what a runtime's numbers hold."""


def open_engines(
    folder: Path, backend: BackendName = "onnx", threads: int | None = None, *, names: Sequence[str] | None = None
) -> tuple[Manifest, Mapping[str, Engine]]:
    """The folder's manifest and its engines by name, every file verified first.

    Args:
        folder: the engine folder.
        backend: which of the folder's engines to open.
        threads: CPU threads; all that this process may use by default.
        names: the engines to open and verify, for a process that plays only these; all by default.

    Raises:
        EngineMismatchError: the folder is not one, a file was changed or is not listed, or the backend is not in it.
        ValueError: no such backend or engine, or fewer threads than one.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    threads = available_cpus() if threads is None else min(whole("threads", threads, 1), MAX_THREADS)
    manifest = Manifest.read(folder)
    record = manifest.backend(backend, folder)
    manifest.refuse_unlisted(folder)
    if names is not None:
        if unknown := set(names) - set(record.engines):
            raise ValueError(f"names has {', '.join(sorted(unknown))}; expected some of {', '.join(record.engines)}")
        record = dataclasses.replace(record, engines={name: record.engines[name] for name in names})
    return manifest, open_backend(backend, folder, manifest, record, threads)


def open_backend(
    backend: BackendName, folder: Path, manifest: Manifest, record: BackendRecord, threads: int
) -> Mapping[str, Engine]:
    """The record's engines, each file verified before its runtime sees it.

    Raises:
        DeviceUnavailableError: the engines are for a device that this machine lacks.
        EngineMismatchError: a file is not what the manifest says, or the runtime is not installed.
    """
    # Each runtime is imported where it is asked for: none needs another's packages.
    try:
        if backend == "torch":
            from diffvqa_rt.engines.torch_backend import open_torch

            return open_torch(folder, manifest, record, threads)
        if backend == "aot-inductor":
            from diffvqa_rt.engines.inductor_backend import open_inductor

            return open_inductor(folder, manifest, record)
        if backend == "tensorrt" or backend == "tensorrt-rtx":
            from diffvqa_rt.engines.tensorrt_backend import open_tensorrt

            return open_tensorrt(folder, manifest, record, backend)
        from diffvqa_rt.engines.onnx_backend import open_onnx, open_onnx_cuda

        if backend == "onnx-cuda":
            return open_onnx_cuda(folder, manifest, record)
        return open_onnx(folder, manifest, record, threads)
    except ModuleNotFoundError as error:
        raise EngineMismatchError(
            f"the {backend} backend needs {error.name}, which is not installed: "
            f"pip install 'diffvqa-rt[{EXTRAS[backend]}]'"
        ) from error


__all__ = [
    "BACKENDS",
    "MAX_THREADS",
    "BackendName",
    "Engine",
    "Manifest",
    "available_cpus",
    "open_backend",
    "open_engines",
]
