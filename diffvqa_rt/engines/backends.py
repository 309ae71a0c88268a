"""The table of backends: one row a runtime, read by the export that builds engines and by the runtime that opens them.

A row names its functions and imports nothing: no runtime needs another's packages.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffvqa_rt.extras import needs_package

BackendName = Literal["onnx", "onnx-cuda", "tensorrt", "tensorrt-rtx", "aot-inductor", "torch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """A runtime that plays engines.

    Attributes:
        name: as in `--backend` and in manifests.
        extra: the package's extra that installs what it needs.
        opener: `module:function`, of (folder, manifest, record, threads) → the record's engines by name.
        builder: `module:function` in the export, of (request) → the builder of its engines.
        files: where its weights are in an engine folder: of each `{stage}`, or of the whole network.
        is_tensorrt: whether its engines are plans, which take a profile, and may come without weights.
        build_turn: its place among the backends of one build; they share the network, and change it.
        triton_backend: Triton server's own backend that plays the same files, if there is one.
    """

    name: BackendName
    extra: str
    opener: str
    builder: str
    files: tuple[str, ...]
    is_tensorrt: bool = False
    build_turn: int = 1
    triton_backend: str | None = None

    def lacks(self, error: ModuleNotFoundError) -> str:
        """A sentence that says what to install."""
        return needs_package(f"the {self.name} backend", error.name, self.extra)


_ROWS = (
    Backend(
        name="onnx",
        extra="cpu",
        opener="diffvqa_rt.engines.onnx_backend:open_onnx",
        builder="diffvqa_export.backends.onnx:onnx_builder",
        files=("onnx/{stage}.onnx.data",),
    ),
    Backend(
        name="onnx-cuda",
        extra="gpu",
        opener="diffvqa_rt.engines.onnx_backend:open_onnx_cuda",
        builder="diffvqa_export.backends.onnx:onnx_cuda_builder",
        files=("onnx/{stage}.onnx.data",),
        triton_backend="onnxruntime",
    ),
    Backend(
        name="tensorrt",
        extra="tensorrt",
        opener="diffvqa_rt.engines.tensorrt_backend:open_tensorrt",
        builder="diffvqa_export.backends.tensorrt:tensorrt_builder",
        files=("onnx/{stage}.onnx.data", "tensorrt/{stage}.plan"),
        is_tensorrt=True,
        triton_backend="tensorrt",
    ),
    Backend(
        name="tensorrt-rtx",
        extra="tensorrt-rtx",
        opener="diffvqa_rt.engines.tensorrt_backend:open_tensorrt_rtx",
        builder="diffvqa_export.backends.tensorrt:tensorrt_rtx_builder",
        files=("onnx/{stage}.onnx.data", "tensorrt-rtx/{stage}.plan"),
        is_tensorrt=True,
    ),
    Backend(
        name="aot-inductor",
        extra="export",
        opener="diffvqa_rt.engines.inductor_backend:open_inductor",
        builder="diffvqa_export.backends.inductor:inductor_builder",
        files=("aot-inductor/{stage}.pt2",),
        build_turn=2,  # moves the network to a GPU, and the exporters trace on the CPU
    ),
    Backend(
        name="torch",
        extra="export",
        opener="diffvqa_rt.engines.torch_backend:open_torch",
        builder="diffvqa_export.backends.torch:torch_builder",
        files=("torch/weights.safetensors",),
        build_turn=0,  # keeps float32 weights, and the others turn the network into half precision in place
    ),
)

BACKENDS: Mapping[BackendName, Backend] = {row.name: row for row in _ROWS}


def imported(reference: str) -> Any:
    """The function that `module:function` names. Raises ModuleNotFoundError where a package is not installed."""
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)
