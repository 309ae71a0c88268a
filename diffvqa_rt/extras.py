"""The package's extras: what each adds, whether it is there, and the command that installs it here."""

import importlib.util
import json
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_NAME = "diffvqa-rt"
_TREE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of pyproject.toml.

    Attributes:
        name: as in `pip install 'diffvqa-rt[NAME]'`.
        adds: what there is with it, as the end of a sentence.
        paths: a folder or a file of each of its packages, from `site-packages`.
        replaces: the distribution that has to go first.
    """

    name: str
    adds: str
    paths: tuple[str, ...]
    replaces: str | None = None

    def missing(self) -> list[str]:
        """The packages that are not there. Nothing is imported."""
        return [path for path in self.paths if not is_installed(path)]

    def install_command(self) -> str:
        """The shell command that installs it into this Python."""
        first = f"{pip_command('uninstall', self.replaces)}; " if self.replaces else ""
        return first + pip_command("install", *_requirement(self.name))


_ROWS = (
    Extra("cpu", "scoring on the CPU", ("onnxruntime",)),
    Extra(
        "gpu",
        "scoring by ONNX Runtime with CUDA, in the place of cpu",
        ("onnxruntime/capi/libonnxruntime_providers_cuda.so",),
        replaces="onnxruntime",
    ),
    Extra("tensorrt", "TensorRT's engines", ("cuda/bindings", "tensorrt", "triton")),
    Extra("tensorrt-rtx", "engines of TensorRT for RTX", ("cuda/bindings", "tensorrt_rtx")),
    Extra("export", "building engines", ("numba", "onnx", "onnxruntime", "onnxscript", "safetensors", "torch")),
    Extra("dali", "views by DALI", ("nvidia/dali",)),
    Extra("heic", "HEIC pictures", ("pillow_heif",)),
    Extra(
        "http",
        "`diffvqa serve --http-api`, beside serve",
        ("cryptography", "fastapi", "python_multipart", "starlette", "uvicorn"),
    ),
    Extra("hub", "weights by name, hf://ORG/NAME@REVISION", ("huggingface_hub",)),
    Extra("report", "`diffvqa report`", ("jinja2", "matplotlib")),
    Extra("serve", "`diffvqa client`", ("tritonclient/grpc",)),
    Extra("batch", "`diffvqa batch`", ("fsspec", "pyarrow", "ray", "s3fs")),
    Extra(
        "train",
        "training, `diffvqa evaluate`, `compare` and `diagnose`",
        (
            "accelerate",
            "diffusers",
            "ffmpeg_quality_metrics",
            "imageio_ffmpeg",
            "matplotlib",
            "numba",
            "openpyxl",
            "safetensors",
            "sklearn",
            "scipy",
            "tensorboard",
            "torch",
            "transformers",
        ),
    ),
)

EXTRAS = {row.name: row for row in _ROWS}
"""All but those of this project's developers, by name."""


def install_command(extra: str) -> str:
    """The shell command that installs an extra into this Python, from where this package came."""
    return EXTRAS[extra].install_command()


def needs_package(subject: str, package: str | None, extra: str) -> str:
    """The sentence for a package that is missing: the subject that needs it, and the command that installs it.

    `package` may be a module inside it, as `ModuleNotFoundError.name` is.
    """
    name = str(package).partition(".")[0]
    return f"{subject} needs {name}, which is not installed: {install_command(extra)}"


def is_installed(path: str) -> bool:
    """True where `import` would find a package's folder with this file or module inside; nothing is imported."""
    package, _, inside = path.partition("/")
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return any((Path(place) / inside).exists() for place in places or ())


def pip_command(verb: str, *words: str) -> str:
    """A command of pip that changes the Python that runs now, whichever shell it is given in."""
    if importlib.util.find_spec("pip") is None:  # as in the environments that uv makes
        program = ["uv", "pip", verb, "--python", sys.executable]
    elif (on_path := shutil.which("pip")) and Path(on_path).parent == Path(sys.executable).parent:
        program = ["pip", verb]
    else:
        program = [sys.executable, "-m", "pip", verb]
    return shlex.join([*program, *words])


def _requirement(extra: str) -> list[str]:
    """Arguments of pip that install an extra.

    The name alone is right only where an index gave this package: another's index may have none of this name, or
    another's of this name.
    """
    if (_TREE / "pyproject.toml").is_file():  # a checkout, installed with -e or not at all
        return ["-e", f"{_TREE}[{extra}]"]
    try:
        installed = distribution(_NAME)
    except PackageNotFoundError:
        return [f"{_NAME}[{extra}]"]
    origin = installed.read_text("direct_url.json")
    if origin is None:
        return [f"{_NAME}[{extra}]"]
    url = _url(json.loads(origin))
    path = urlsplit(url)
    if path.scheme == "file" and not Path(unquote(path.path)).exists():  # as in a container that it was built in
        return [line.partition(";")[0].strip() for line in installed.requires or () if f'"{extra}"' in line]
    return [f"{_NAME}[{extra}] @ {url}"]


def _url(origin: dict[str, Any]) -> str:
    """The URL to install from again, of `direct_url.json` (PEP 610)."""
    url = str(origin["url"])
    if version_control := origin.get("vcs_info"):
        return f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
    return url
