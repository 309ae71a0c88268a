"""A stage's torch module to AOTInductor's package: compiled code and weights in one .pt2, without the Python model."""

import warnings
from collections.abc import Sequence
from itertools import chain

import diffvqa_kernels.selective_scan.inductor_cpu  # noqa: F401  the scan's lowering on a CPU
import torch
from torch import Tensor
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from diffvqa_export.export_stage import ExportJob
from diffvqa_rt.engines.inductor_backend import build_metadata, keep_float32
from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.specs import EngineSpec

# freezing: linear layers are oneDNN's too and pointwise operators go inside its calls, 1.15 times sooner on `tiny`'s
# step. max_autotune takes four times as long to compile for 8 % (a single frame).
# One thread: no sum depends on how many there are.
OPTIONS = {"freezing": True, "cpp.threads": 1}


def package_from_module(job: ExportJob) -> None:
    """Writes `job.path` (.pt2) for the device and in the precision that the module has, the provenance in its metadata.

    The package's border is the spec's with the videos laid out as the runtime plays them: a per-frame engine takes
    [1, frames, …] with any number of frames, and the head takes one video on a CPU, any number on a GPU.

    Raises:
        EngineBuildError: there is no C++ compiler, a step of the compilation failed, or the module's outputs are not
            the spec's.
    """
    spec = job.spec
    try:
        compiler = get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise EngineBuildError(
            f"{spec.name}: AOTInductor needs a C++ compiler and found none; install g++, or name one in CXX"
        ) from error
    # A stage may have tables alone.
    device = next(chain(job.module.parameters(), job.module.buffers())).device
    inputs = tuple(tensor.to(device) for tensor in job.stage.example_inputs(job.config))
    inputs, dynamic = _as_played(inputs, spec, device)
    keep_float32()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(job.module, inputs, dynamic_shapes=dynamic)
            _check_border(program, spec)
            metadata = build_metadata(job.provenance, device)
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(job.path), inductor_configs={**OPTIONS, "aot_inductor.metadata": metadata}
            )
    except RuntimeError as error:  # what torch's exporter and compiler derive their own from
        raise EngineBuildError(f"{spec.name} could not be compiled with {compiler}: {error}") from error


def _as_played(
    inputs: Sequence[Tensor], spec: EngineSpec, device: torch.device
) -> tuple[tuple[Tensor, ...], tuple[dict[int, torch.export.Dim], ...]]:
    if spec.is_per_frame:
        frames = torch.export.Dim("frames", min=1)
        together = tuple(tensor.flatten(0, 1)[None] if tensor.ndim > 1 else tensor for tensor in inputs)
        return together, tuple({1: frames} if tensor.ndim > 1 else {} for tensor in inputs)
    if device.type == "cpu":
        return tuple(tensor[:1] for tensor in inputs), ({},) * len(inputs)
    videos = torch.export.Dim("videos", min=1)
    return tuple(inputs), tuple({0: videos} if isinstance(tensor.shape[0], str) else {} for tensor in spec.inputs)


def _check_border(program: torch.export.ExportedProgram, spec: EngineSpec) -> None:
    (results,) = program.graph.output_node().args
    found = [tuple(node.meta["val"].shape) for node in results]
    fits = len(found) == len(spec.outputs)
    for shape, tensor in zip(found, spec.outputs, strict=False):
        fits = fits and len(shape) == len(tensor.shape)
        fits = fits and all(isinstance(d, str) or d == size for size, d in zip(shape, tensor.shape, strict=False))
    if not fits:
        expected = [(tensor.name, *tensor.shape) for tensor in spec.outputs]
        raise EngineBuildError(f"{spec.name}: the exported outputs are {found}; the spec says {expected}")
