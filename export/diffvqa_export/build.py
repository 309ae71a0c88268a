"""The build: a network in, an engine folder out. Written beside its place and renamed, so none is ever half there."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import onnxruntime
import torch
from safetensors.torch import save as safetensors_bytes

from diffvqa_export import head, unet_controller, vae_encoder
from diffvqa_export.onnx_export import export_onnx
from diffvqa_export.parity import measure_parity
from diffvqa_rt.engines import BackendName, available_cpus
from diffvqa_rt.engines.manifest import BackendRecord, BuildRecord, Manifest, WeightsRecord
from diffvqa_rt.engines.onnx_backend import open_onnx
from diffvqa_rt.engines.torch_backend import torch_engines
from diffvqa_rt.errors import EngineBuildError, ParityError
from diffvqa_rt.models.checkpoints import weights_sha256
from diffvqa_rt.models.diffvqa import DiffVQA
from diffvqa_rt.models.stages import stage_modules
from diffvqa_rt.specs import MANIFEST_NAME, engine_specs

STAGES = {module.STAGE.name: module.STAGE for module in (vae_encoder, unet_controller, head)}
PACKAGES = ("diffvqa-rt", "numpy", "onnx", "onnxruntime", "onnxscript", "torch")

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """`source` says where the weights come from; `clip` is the real video that parity is measured on."""

    backends: tuple[BackendName, ...]
    out: Path
    clip: Path
    is_trained: bool
    source: str

    def __post_init__(self) -> None:
        unknown = set(self.backends) - set(get_args(BackendName))
        if unknown or not self.backends:
            raise ValueError(f"backends is {self.backends!r}; expected some of {', '.join(get_args(BackendName))}")


def build_engines(network: DiffVQA, request: BuildRequest, progress: Progress) -> Manifest:
    """Exports, verifies and writes the engine folder `request.out`; an older one there is replaced.

    `progress` is called with the name of each step as it begins.

    Raises:
        ParityError: an engine is further from torch than its tolerance; nothing is written.
        EngineBuildError: a step failed, or `out` holds something that is not an engine folder.
        VideoDecodeError: the parity clip cannot be read.
    """
    out = request.out
    if out.exists() and not (out / MANIFEST_NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise EngineBuildError(f"{out} exists and is not an engine folder; choose another --out or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        manifest = _build_into(partial, network, request, progress)
        manifest.write(partial)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _build_into(folder: Path, network: DiffVQA, request: BuildRequest, progress: Progress) -> Manifest:
    records = {}
    if "torch" in request.backends:
        progress("torch: write the weights")
        records["torch"] = _torch_backend(folder, network)
    if "onnx" in request.backends:
        records["onnx"] = _onnx_backend(folder, network, request, progress)
    return Manifest(
        config=network.config,
        weights=WeightsRecord(sha256=weights_sha256(network), is_trained=request.is_trained, source=request.source),
        build=_build_record(),
        backends=records,
    )


def _onnx_backend(folder: Path, network: DiffVQA, request: BuildRequest, progress: Progress) -> BackendRecord:
    config = network.config
    specs, modules = engine_specs(config), stage_modules(network)
    (folder / "onnx").mkdir()
    engines = {}
    for name, stage in STAGES.items():
        progress(f"onnx: export {name}")
        engines[name] = f"onnx/{name}.onnx"
        export_onnx(stage, modules[name], config, specs[name], folder / engines[name])
    record = BackendRecord(
        runtime=f"onnxruntime {onnxruntime.__version__}",
        precision="float32",
        device="cpu",
        files={file: _sha256(folder / file) for file in engines.values()},
        engines=engines,
        parity=None,
    )
    progress(f"onnx: compare with torch on {request.clip.name}")
    opened = open_onnx(folder, config, record, available_cpus())
    report = measure_parity(opened, torch_engines(network), config, STAGES, request.clip)
    if report.failures:
        raise ParityError(f"{config.name}, onnx: {'; '.join(report.failures)}. Nothing was written")
    return BackendRecord(
        runtime=record.runtime,
        precision=record.precision,
        device=record.device,
        files=record.files,
        engines=engines,
        parity=report,
    )


def _torch_backend(folder: Path, network: DiffVQA) -> BackendRecord:
    (folder / "torch").mkdir()
    file = "torch/weights.safetensors"
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    (folder / file).write_bytes(safetensors_bytes(state))
    return BackendRecord(
        runtime=f"torch {torch.__version__}",
        precision="float32",
        device="cpu",
        files={file: _sha256(folder / file)},
        engines=dict.fromkeys(STAGES, file),
        parity=None,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build_record() -> BuildRecord:
    return BuildRecord(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=f"{_cpu_name()}, {available_cpus()} CPUs",
        commit=_commit(),
        versions={package: importlib.metadata.version(package) for package in PACKAGES},
    )


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines: Sequence[str] = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """The source's commit, with a + where the checkout differs from it; empty outside a checkout."""
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
