"""An estimate of what a build writes and of the memory that it takes, before anything is computed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from diffvqa_export.context import BuildRequest
from diffvqa_export.export_stage import ExportStage
from diffvqa_export.precision import DTYPES
from diffvqa_rt.engines.backends import BACKENDS
from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.models.registry import models_of
from diffvqa_rt.specs import Precision

_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The sizes of a build.

    Attributes:
        out: the engine folder.
        file_bytes: by file, the reference that stays in the work folder included.
        memory_bytes: the peak of each phase of the build.
    """

    out: Path
    file_bytes: dict[str, int]
    memory_bytes: dict[str, int]

    @classmethod
    def of(cls, request: BuildRequest) -> "Estimate":
        export, config = request.export, request.config
        with torch.device("meta"):
            models = models_of(request.metric)
            # Small constants are made on the CPU all the same.
            modules = models.stages(models.network(config).to("meta"))
        float32, stages = (
            {name: _stage_bytes(export.stages[name], module, precision) for name, module in modules.items()}
            for precision in ("fp32", request.precision)
        )
        weights = sum(tensor.nbytes for module in modules.values() for tensor in module.parameters())
        activations = export.activation_bytes(config)
        files: dict[str, int] = {}
        memory = {"load": weights, "export": weights + max(stages.values())}
        if set(request.backends) != {"torch"}:
            files["reference"] = export.reference_bytes(config)
            memory["reference"] = weights + activations
            # ONNX Runtime on a CPU holds the file's weights, and float32 ones beside them, some of them packed once
            # more. Measured for sd21 in fp16: 17.1 GB.
            memory["compare"] = sum(stages.values()) + 3 * sum(float32.values()) // 2 + activations
        rows = sorted(BACKENDS.values(), key=lambda row: row.build_turn)
        for file in [file for row in rows if row.name in request.backends for file in row.files]:
            if "{stage}" in file:
                files |= {file.format(stage=name): size for name, size in stages.items()}
            else:
                files[file] = weights
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
        """The size of what earlier builds left, for this one to find or to replace."""
        folders = (self.out, self.out.with_name(f"{self.out.name}.work"))
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())

    def _free_bytes(self) -> int:
        folder = next(path for path in (self.out.resolve(), *self.out.resolve().parents) if path.exists())
        return shutil.disk_usage(folder).free


def _stage_bytes(stage: ExportStage, module: nn.Module, precision: Precision) -> int:
    """The weights that a stage's engine holds: after the folds, in its precision."""
    half = DTYPES[precision].itemsize
    total = 0
    for path, parameter in module.named_parameters():
        if stage.folds is None or not stage.folds.has_replaced(path):
            is_kept = stage.keeps_float32(path.rpartition(".")[0])
            total += parameter.numel() * (_FLOAT32_BYTES if is_kept else half)
    tables = stage.folds.tables(module) if stage.folds is not None else []
    counted = {id(table) for table in tables}
    total += sum(buffer.nbytes for buffer in module.buffers() if id(buffer) not in counted)
    return total + half * sum(table.numel() for table in tables)


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
