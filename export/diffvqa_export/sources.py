"""The hash of the code that decides what is built: the network, the kernels, the exporter."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import diffvqa_kernels

import diffvqa_export
import diffvqa_rt

ROOTS = {package.__name__: Path(package.__path__[0]) for package in (diffvqa_rt, diffvqa_kernels, diffvqa_export)}


@functools.cache
def source_sha256(metric: str) -> str:
    """The hash of what all metrics share and of the metric's own, as it was when it was first asked for."""
    return hash_sources(metric, ROOTS)


def hash_sources(metric: str, roots: Mapping[str, Path]) -> str:
    """The hash of the metric's sources in packages at `roots`. What other metrics have of their own is not in it."""
    patterns = {
        "diffvqa_rt": (
            *("chain.py", "metric.py", "sampler.py", "scoring.py", "specs.py", "models/*.py"),
            *(f"models/{metric}/**/*.py", f"metrics/{metric}/**/*.py"),
        ),
        "diffvqa_kernels": ("**/*.py",),
        "diffvqa_export": ("*.py", "backends/*.py", f"{metric}/**/*.py"),
    }
    digest = hashlib.sha256()
    for package, globs in patterns.items():
        root = roots[package]
        for path in sorted({path for pattern in globs for path in root.glob(pattern)}):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}".encode() + path.read_bytes())
    return digest.hexdigest()
