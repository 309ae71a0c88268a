"""What a build will write and what memory it will take, before anything is computed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from diffvqa_export.context import BuildRequest
from diffvqa_export.precision import DTYPES, is_kept
from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.metrics.diffvqa.config import VIEWS, DiffVQAConfig
from diffvqa_rt.models.diffvqa.diffusion import DenoisingStep
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.specs import Precision

# What the folds replace by tables, and no engine holds.
_FOLDED = (
    ".attn2.to_q.",
    ".attn2.to_k.",
    ".attn2.to_v.",
    ".attn2.to_out.0.weight",
    ".time_emb_proj.",
    ".time_embedding.",
)
_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """`file_bytes`: by what is written, the reference that stays in the work folder included. `memory_bytes`: the peak
    of each phase of the build.
    """

    out: Path
    file_bytes: dict[str, int]
    memory_bytes: dict[str, int]

    @classmethod
    def of(cls, request: BuildRequest) -> "Estimate":
        config, backends = request.config, set(request.backends)
        with torch.device("meta"):
            modules = stage_modules(DiffVQA(config))
        float32 = {name: _stage_bytes(name, module, "fp32") for name, module in modules.items()}
        stages = {name: _stage_bytes(name, module, request.precision) for name, module in modules.items()}
        weights = sum(tensor.nbytes for module in modules.values() for tensor in module.parameters())
        activations = _activation_bytes(config)
        files: dict[str, int] = {}
        memory = {"load": weights, "export": weights + max(stages.values())}
        if backends != {"torch"}:
            files["reference.npz"] = _reference_bytes(config)
            memory["reference"] = weights + activations
            # ONNX Runtime on a CPU holds the file's weights, and float32 ones beside them, some of them packed once
            # more. Measured for sd21 in fp16: 17.1 GB.
            memory["compare"] = sum(stages.values()) + 3 * sum(float32.values()) // 2 + activations
        if "torch" in backends:
            files["torch/weights.safetensors"] = weights
        if backends & {"onnx", "onnx-cuda", "tensorrt", "tensorrt-rtx"}:
            files |= {f"onnx/{name}.onnx.data": size for name, size in stages.items()}
        for backend, suffix in (("tensorrt", "plan"), ("tensorrt-rtx", "plan"), ("aot-inductor", "pt2")):
            if backend in backends:
                files |= {f"{backend}/{name}.{suffix}": size for name, size in stages.items()}
        return cls(out=request.out, file_bytes=files, memory_bytes=memory)

    def describe(self) -> str:
        lines = [f"{_readable(size):>9}  {name}" for name, size in self.file_bytes.items()]
        lines += [f"{_readable(sum(self.file_bytes.values())):>9}  in all; {_readable(self._free_bytes())} are free"]
        lines += ["", "memory, roughly:"]
        lines += [f"{_readable(size):>9}  {phase}" for phase, size in self.memory_bytes.items()]
        return "\n".join([f"{self.out}:", *lines])

    def refuse_what_does_not_fit(self) -> None:
        """Raises EngineBuildError where the disk has less room than the files need."""
        needed, free = sum(self.file_bytes.values()) - self._bytes_there(), self._free_bytes()
        if needed > free:
            raise EngineBuildError(
                f"{self.out} needs about {_readable(needed)} more and its disk has {_readable(free)} left; make room, "
                "or choose another --out"
            )

    def _bytes_there(self) -> int:
        """What earlier builds left, for this one to find or to replace."""
        folders = (self.out, self.out.with_name(f"{self.out.name}.work"))
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())

    def _free_bytes(self) -> int:
        folder = next(path for path in (self.out.resolve(), *self.out.resolve().parents) if path.exists())
        return shutil.disk_usage(folder).free


def _stage_bytes(name: str, module: nn.Module, precision: Precision) -> int:
    """The weights that a stage's engine holds: after the folds, in its precision."""
    half = DTYPES[precision].itemsize
    total = 0
    for path, parameter in module.named_parameters():
        if isinstance(module, DenoisingStep) and any(part in f".{path}" for part in _FOLDED):
            continue
        total += parameter.numel() * (_FLOAT32_BYTES if is_kept(name, path.rpartition(".")[0]) else half)
    if isinstance(module, DenoisingStep):
        total += half * sum(table.numel() for table in module.tables())
    return total


def _reference_bytes(config: DiffVQAConfig) -> int:
    frames = len(VIEWS) * config.frames
    shapes = [(3, config.view_size, config.view_size), *config.feature_shapes]
    # z0, and z before and after each step.
    shapes += [config.latent_shape] * (config.sampler.steps + 2)
    return frames * sum(_product(shape) for shape in shapes) * _FLOAT32_BYTES


def _activation_bytes(config: DiffVQAConfig) -> int:
    """Of the VAE's first level, the widest point of all: a few tensors of its size are alive at a time."""
    alive = 6
    level = len(VIEWS) * config.frames * config.vae.channels[0] * config.view_size**2
    return alive * level * _FLOAT32_BYTES


def _product(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
