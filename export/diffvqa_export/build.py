"""The build: a network in, an engine folder out. Written beside its place and renamed, so none is ever half there."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import onnxruntime
import torch
from safetensors.torch import save as safetensors_bytes

from diffvqa_export import head, unet_controller, vae_encoder
from diffvqa_export.onnx_export import export_onnx
from diffvqa_export.parity import Views, measure_parity
from diffvqa_rt.engines import BackendName, available_cpus
from diffvqa_rt.engines.manifest import (
    BackendRecord,
    BuildRecord,
    EngineRecord,
    Manifest,
    WeightsRecord,
    unlisted_files,
)
from diffvqa_rt.engines.onnx_backend import open_onnx
from diffvqa_rt.engines.torch_backend import torch_engines
from diffvqa_rt.errors import EngineBuildError, ParityError
from diffvqa_rt.models.checkpoints import weights_sha256
from diffvqa_rt.models.diffvqa import DiffVQA
from diffvqa_rt.models.stages import stage_modules
from diffvqa_rt.specs import MANIFEST_NAME, engine_specs
from diffvqa_rt.video import make_views, sample_frames

STAGES = {module.STAGE.name: module.STAGE for module in (vae_encoder, unet_controller, head)}
PACKAGES = ("diffvqa-rt", "numpy", "onnx", "onnxruntime", "onnxscript", "torch")

# A protobuf ends at 2 GiB; weights beside the graph come with the full-size engines (issue 4).
MAX_ONNX_BYTES = 1_900_000_000

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
    out = request.out.resolve()
    _refuse_to_replace_other_files(out)
    config = network.config
    views = make_views(sample_frames(request.clip, config.frames).frames, config.view_size)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out`, so that a rename puts it there; whoever else builds has a folder of their own.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-", dir=out.parent) as name:
        new, old = Path(name, "new"), Path(name, "old")
        new.mkdir()
        manifest = _build_into(new, network, views, request, progress)
        manifest.write(new)
        if out.exists():
            out.rename(old)
        new.rename(out)
    return manifest


def _refuse_to_replace_other_files(out: Path) -> None:
    """Raises EngineBuildError unless `out` is free, empty, or an engine folder with nothing else in it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        # Read loosely: engines of an older format are there to be replaced.
        values = json.loads((out / MANIFEST_NAME).read_text(encoding="utf-8"))
        listed = {file for record in values["backends"].values() for file in record["files"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise EngineBuildError(f"{out} exists and is not an engine folder; choose another --out or remove it") from None
    foreign = unlisted_files(out, listed)
    if foreign:
        raise EngineBuildError(f"{foreign[0]} is not part of the engines in {out}; move it, or choose another --out")


def _build_into(folder: Path, network: DiffVQA, views: Views, request: BuildRequest, progress: Progress) -> Manifest:
    manifest = Manifest(
        config=network.config,
        weights=WeightsRecord(sha256=weights_sha256(network), is_trained=request.is_trained, source=request.source),
        build=_build_record(),
        backends={},
    )
    records = {}
    if "torch" in request.backends:
        progress("torch: write the weights")
        records["torch"] = _torch_backend(folder, network)
    if "onnx" in request.backends:
        record = _export_onnx_engines(folder, network, manifest.provenance, progress)
        progress(f"onnx: compare with torch on {request.clip.name}")
        opened = open_onnx(folder, manifest, record, available_cpus())
        report = measure_parity(opened, torch_engines(network), network.config, STAGES, views, request.clip.name)
        if report.failures:
            raise ParityError(f"{network.config.name}, onnx: {'; '.join(report.failures)}. Nothing was written")
        records["onnx"] = dataclasses.replace(record, parity=report)
    return dataclasses.replace(manifest, backends=records)


def _export_onnx_engines(folder: Path, network: DiffVQA, provenance: str, progress: Progress) -> BackendRecord:
    size = sum(parameter.nbytes for parameter in network.parameters())
    if size > MAX_ONNX_BYTES:
        raise EngineBuildError(
            f"{network.config.name} has {size / 1e9:.1f} GB of weights, and an ONNX file of ours holds at most "
            f"{MAX_ONNX_BYTES / 1e9:.1f} GB; build it with --backend torch"
        )
    specs, modules = engine_specs(network.config), stage_modules(network)
    (folder / "onnx").mkdir()
    engines = {}
    for name, stage in STAGES.items():
        progress(f"onnx: export {name}")
        engines[name] = f"onnx/{name}.onnx"
        export_onnx(stage, modules[name], network.config, specs[name], folder / engines[name], provenance)
    return BackendRecord(
        runtime=f"onnxruntime {onnxruntime.__version__}",
        precision="float32",
        device="cpu",
        files={file: _sha256(folder / file) for file in engines.values()},
        engines=_engine_records(network, engines),
        parity=None,
    )


def _engine_records(network: DiffVQA, files: dict[str, str]) -> dict[str, EngineRecord]:
    specs = engine_specs(network.config)
    return {
        name: EngineRecord(file=files[name], inputs=spec.inputs, outputs=spec.outputs) for name, spec in specs.items()
    }


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
        engines=_engine_records(network, dict.fromkeys(STAGES, file)),
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
