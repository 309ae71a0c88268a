"""An ONNX file to a plan of TensorRT or TensorRT for RTX: the same steps, the module is a parameter.

RTX builds ahead of time, without a GPU, one plan for all of `RTX_ARCHITECTURES`, and compiles it for the GPU that it is
opened on. TensorRT measures kernels on the GPU that it builds on, and the plan is for that one.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffvqa_rt.engines.cuda_memory import gpu_architecture
from diffvqa_rt.engines.tensorrt_library import Library, PlanRecord, TensorRTName, load_library
from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.files import write_whole
from diffvqa_rt.specs import EngineSpec, Profile

# All that RTX knows but sm_75, for which it has no float32 matrix products.
RTX_ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanJob:
    """One plan to be made from one ONNX file.

    Attributes:
        runtime: TensorRT or TensorRT for RTX.
        onnx_path: the network, its precision written in the graph; its data may be in files beside it.
        spec: its border.
        sizes: of the dynamic dimensions but `videos`, fixed in the plan: only a CPU's runtime cuts them.
        profile: how many videos at a time.
        path: the plan.
        provenance: written into the plan as its name, `Manifest.provenance`.
        timing_cache: what TensorRT's measurements are kept in from build to build. RTX measures nothing.
        strip_weights: leave out the weights; the runtime takes them from `weights_file(path)`.
        version_compatible: for later versions of TensorRT too, without the kernels that only this version has.
    """

    runtime: TensorRTName
    onnx_path: Path
    spec: EngineSpec
    sizes: Mapping[str, int]
    profile: Profile
    path: Path
    provenance: str
    timing_cache: Path
    strip_weights: bool = False
    version_compatible: bool = False


def plan_from_onnx(job: PlanJob) -> PlanRecord:
    """Writes the plan, and returns what the manifest says of it.

    Raises:
        EngineBuildError: the parser does not take the file, the runtime does not build it, or it needs a GPU for that.
        ModuleNotFoundError: the runtime is not installed.
    """
    library = load_library(job.runtime)
    trt = library.trt
    gpus = architectures(library, strip_weights=job.strip_weights, version_compatible=job.version_compatible)
    if not library.is_rtx:
        _register_plugins()
    library.clear_errors()
    builder = trt.Builder(library.log)
    network = builder.create_network(0)
    _parse(library, network, job.onnx_path)
    network.name = job.provenance
    config = builder.create_builder_config()
    # What says float32 computes in it: TF32 keeps 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if job.strip_weights:
        # REFIT, not REFIT_IDENTICAL, which would fold the first checkpoint's values into the kernels.
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT)
    if job.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if library.is_rtx:
        # The runtime lends all engines the same working memory, and captures CUDA graphs.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        _set_architectures(trt, config, () if job.strip_weights else gpus)
    config.add_optimization_profile(_optimization_profile(builder, job))
    cache = None if library.is_rtx else _load_timing_cache(config, job.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(
            f"{library.label} cannot build {job.spec.name} from {job.onnx_path}: {library.first_error()}"
        )
    job.path.write_bytes(memoryview(plan))
    if cache is not None:
        write_whole(job.timing_cache, lambda part: part.write_bytes(memoryview(cache.serialize())))
    return PlanRecord(
        architectures=gpus,
        is_stripped=job.strip_weights,
        is_version_compatible=job.version_compatible,
        scan=_scan(trt, network),
    )


def architectures(library: Library, *, strip_weights: bool, version_compatible: bool) -> tuple[str, ...]:
    """The GPUs that plans will be for. Raises EngineBuildError where there are no such plans, or a GPU is missing."""
    if library.is_rtx and version_compatible:
        raise EngineBuildError(f"{library.label} has no version-compatible plans; build them with --backend tensorrt")
    if library.is_rtx and not strip_weights:
        return RTX_ARCHITECTURES
    here = gpu_architecture()
    if here is None:
        what = "build plans without weights" if library.is_rtx else "build"
        raise EngineBuildError(f"{library.label} needs an NVIDIA GPU and its driver to {what}, and none was found")
    return (here,)


def _set_architectures(trt: Any, config: Any, gpus: tuple[str, ...]) -> None:
    """None of them: the current GPU."""
    names = [architecture.replace("sm_", "SM") for architecture in gpus] or ["CURRENT"]
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(trt.ComputeCapability.__members__[name], index)


@functools.cache
def _register_plugins() -> None:
    """Once in a process: TensorRT's registry refuses a name that it has."""
    from diffvqa_kernels.selective_scan.tensorrt import register_plugins

    register_plugins()


def _parse(library: Library, network: Any, onnx_path: Path) -> None:
    parser = library.trt.OnnxParser(network, library.log)
    if parser.parse_from_file(str(onnx_path)):
        return
    error = parser.get_error(0) if parser.num_errors else None
    if error is None or not error.node_operator():
        reason = library.first_error() if error is None else error.desc()
        raise EngineBuildError(f"{library.label} cannot read {onnx_path}: {reason}")
    raise EngineBuildError(
        f"{library.label} does not take {error.node_operator()} ({error.node_name()}) of {onnx_path}: "
        f"{' '.join(error.desc().split())}"
    )


def _optimization_profile(builder: Any, job: PlanJob) -> Any:
    result = builder.create_optimization_profile()
    for tensor in job.spec.inputs:
        if "videos" not in tensor.shape:
            continue
        shapes = []
        for videos in (job.profile.min, job.profile.opt, job.profile.max):
            sizes = {"videos": videos, **job.sizes}
            shapes.append(tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape))
        result.set_shape(tensor.name, *shapes)
    return result


def _scan(trt: Any, network: Any) -> str:
    """The form of the selective scan in the network that TensorRT has understood; empty where there is none."""
    kinds = {network.get_layer(index).type for index in range(network.num_layers)}
    if trt.LayerType.PLUGIN_V3 in kinds:
        return "plugin"
    return "Scan" if trt.LayerType.RECURRENCE in kinds else ""


def _load_timing_cache(config: Any, path: Path) -> Any:
    """The cache that the build reads and fills: the stored one, where this GPU and version made it, or an empty one."""
    for stored in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(stored)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None
