"""Open an engine folder, verify it, run it.

    manifest, engines = open_engines(Path("build/tiny"))
    z0 = engines["vae_encoder"]({"frames": frames})["z0"]

One protocol for every runtime: arrays in by name, arrays out by name, as `diffvqa_rt.specs` declares them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffvqa_rt.checks import whole
from diffvqa_rt.engines.backends import BACKENDS, BackendName, imported
from diffvqa_rt.engines.cpus import available_cpus
from diffvqa_rt.engines.manifest import BackendRecord, Manifest
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.specs import Engine

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
    threads = settled_threads(threads)
    manifest = Manifest.read(folder)
    record = manifest.backend(backend, folder)
    manifest.refuse_unlisted(folder)
    if names is not None:
        if unknown := set(names) - set(record.engines):
            raise ValueError(f"names has {', '.join(sorted(unknown))}; expected some of {', '.join(record.engines)}")
        record = dataclasses.replace(record, engines={name: record.engines[name] for name in names})
    return manifest, open_backend(backend, folder, manifest, record, threads)


def settled_threads(threads: int | None) -> int:
    """That many CPU threads; all that this process may use of None. Raises ValueError for fewer than one."""
    return available_cpus() if threads is None else min(whole("threads", threads, 1), MAX_THREADS)


def open_backend(
    backend: BackendName, folder: Path, manifest: Manifest, record: BackendRecord, threads: int
) -> Mapping[str, Engine]:
    """The record's engines, each file verified before its runtime sees it.

    Raises:
        DeviceUnavailableError: the engines are for a device that this machine lacks.
        EngineMismatchError: a file is not what the manifest says, or the runtime is not installed.
    """
    row = BACKENDS[backend]
    try:
        engines: Mapping[str, Engine] = imported(row.opener)(folder, manifest, record, threads)
    except ModuleNotFoundError as error:
        raise EngineMismatchError(row.lacks(error)) from error
    return engines


__all__ = [
    "BACKENDS",
    "MAX_THREADS",
    "BackendName",
    "Engine",
    "Manifest",
    "available_cpus",
    "open_backend",
    "open_engines",
    "settled_threads",
]
