"""AOTInductor's packages: the stages as compiled code, run by torch without the network's Python code.

On a CPU a package runs in one thread, and one at a time in a process: torch's loader holds Python's lock while it runs,
so several cores take several processes. The work is cut for the cache: a per-frame engine's frames into shares, the
head's videos one by one. Frames and videos don't see each other, so no bit depends on the cut (a test holds that). On a
GPU the whole batch is one call, per-frame engines leave their outputs there as `TensorArray`s, and a loop is one CUDA
graph.
"""

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from diffvqa_rt.chain import STEP, Loop
from diffvqa_rt.engines.manifest import BackendRecord, Manifest
from diffvqa_rt.engines.shares import equal_shares
from diffvqa_rt.engines.verification import copy_verified
from diffvqa_rt.errors import DeviceUnavailableError, EngineMismatchError
from diffvqa_rt.forking import renew_in_children
from diffvqa_rt.specs import MANIFEST_NAME, Arrays, EngineSpec

_REBUILD = "build it here with export/build_engines.py --backend aot-inductor"
_FEATURES = "diffvqa_cpu_features"
_MODEL = "model"  # AOTInductor's own name for a package's only model

# Of a call's first input. `tiny` in one thread: the encoder takes 2 or 4 pictures at a time, which stay in the cache,
# 1.28 times sooner than 16; the step takes 16 latents twice as soon as one by one, since oneDNN looks its kernels up
# and reorders its weights once a call.
_MAX_CALL_BYTES = 2 << 20


def build_metadata(provenance: str, device: torch.device) -> dict[str, str]:
    """The marks by which a package is recognised: `Manifest.provenance`, and all that its code was compiled for."""
    return {"diffvqa_provenance": provenance, **_runtime(device.type)}


def _runtime(device: str) -> dict[str, str]:
    described = {"diffvqa_torch": torch.__version__, "diffvqa_device": device, "diffvqa_machine": platform.machine()}
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return {**described, "diffvqa_gpu": f"sm_{major}{minor}"}
    features = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    return {**described, _FEATURES: " ".join(features)}


@dataclass(frozen=True, slots=True)
class TensorArray:
    """An array that stays on the GPU; `np.asarray` brings it here."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def ndim(self) -> int:
        return self.tensor.ndim

    @property
    def dtype(self) -> np.dtype:
        return torch.empty(0, dtype=self.tensor.dtype).numpy().dtype

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        return np.asarray(self.tensor.cpu().numpy(), dtype)


class InductorEngine:
    """A package for a CPU behind the engine protocol."""

    max_videos = None

    def __init__(self, spec: EngineSpec, package: Path) -> None:
        self.spec = spec
        self._loader = torch._C._aoti.AOTIModelPackageLoader(str(package), _MODEL, False, 1, -1)
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Makes the thread of its own, so that the caller's torch keeps its threads; a forked child lacks it."""
        self._worker = ThreadPoolExecutor(1, initializer=_run_single_threaded)

    @property
    def is_rowwise(self) -> bool:
        """True where frames are its work."""
        return self.spec.is_per_frame

    def __call__(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.spec.check_inputs(inputs)
        # `from_numpy` warns about read-only arrays, and a package takes contiguous tensors only.
        tensors = [torch.from_numpy(np.require(inputs[t.name], requirements=["C", "W"])) for t in self.spec.inputs]
        if self.spec.is_per_frame:
            videos_and_frames = tensors[0].shape[:2]
            results = self._run(_shares(_as_one_video(tensors)))
            joined = [
                torch.cat(parts, dim=1)[0].unflatten(0, videos_and_frames) for parts in zip(*results, strict=True)
            ]
        else:
            results = self._run([self._one_video(tensors, video) for video in range(len(tensors[0]))])
            joined = [torch.cat(parts) for parts in zip(*results, strict=True)]
        named = {spec.name: tensor.numpy() for spec, tensor in zip(self.spec.outputs, joined, strict=True)}
        return named if outputs is None else {name: named[name] for name in outputs}

    def _one_video(self, tensors: list[Tensor], video: int) -> list[Tensor]:
        named = zip(self.spec.inputs, tensors, strict=True)
        return [tensor if spec.name == STEP else tensor[video, None] for spec, tensor in named]

    def _run(self, calls: list[list[Tensor]]) -> list[list[Tensor]]:
        return list(self._worker.map(self._loader.run, calls))


def _as_one_video(tensors: Sequence[Tensor]) -> list[Tensor]:
    """[V, frames, …] as [1, V · frames, …], which is what a per-frame package takes; the step as it is."""
    return [tensor.flatten(0, 1)[None] if tensor.ndim > 1 else tensor for tensor in tensors]


def _shares(tensors: list[Tensor]) -> list[list[Tensor]]:
    count = tensors[0].shape[1]
    largest = max(1, _MAX_CALL_BYTES * count // tensors[0].nbytes)
    shares = -(-count // largest)
    return [[t[:, part] if t.ndim > 1 else t for t in tensors] for part in equal_shares(count, shares)]


def keep_float32() -> None:
    """Has float32 computed in float32: torch lets convolutions on a GPU take TF32, which keeps 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _run_single_threaded() -> None:
    torch.set_num_threads(1)
    # Makes torch set this thread up now, and not with what another sets in the meantime.
    torch.get_num_threads()


class CudaInductorEngine:
    """A package for a GPU behind the engine protocol: one call for the whole batch.

    A per-frame engine's outputs are `TensorArray`s; the head's, a few numbers, are NumPy arrays.
    """

    max_videos = None

    def __init__(self, spec: EngineSpec, package: Path) -> None:
        self.spec = spec
        keep_float32()
        # Without locks and events between runs, which a CUDA graph can't record.
        self._loader = torch._C._aoti.AOTIModelPackageLoader(str(package), _MODEL, True, 1, -1)
        self._graphs: dict[tuple[Any, ...], _LoopGraph] = {}

    def __call__(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.spec.check_inputs(inputs)
        tensors = [_on_gpu(inputs[spec.name]) for spec in self.spec.inputs]
        if self.spec.is_per_frame:
            videos_and_frames = tensors[0].shape[:2]
            results = [t[0].unflatten(0, videos_and_frames) for t in self._loader.run(_as_one_video(tensors))]
        else:
            results = self._loader.run(tensors)
        torch.cuda.synchronize()  # a stage's time is its own
        named = dict(zip([spec.name for spec in self.spec.outputs], results, strict=True))
        return {name: self._array(named[name]) for name in (named if outputs is None else outputs)}

    def loop(self, loop: Loop, tensors: Arrays, before_turn: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """All turns as one CUDA graph, as `diffvqa_rt.chain.run_loop`; the first call with new shapes records it."""
        before_turn()
        sources = {name: _on_gpu(tensors[name]) for name in sorted(loop.reads)}
        key = (loop.stage, *(tuple(source.shape) for source in sources.values()))
        if key not in self._graphs:
            self._graphs[key] = _LoopGraph(self._loader, self.spec, loop, sources)
        results = self._graphs[key].play(sources)
        torch.cuda.synchronize()
        return {name: TensorArray(tensor) for name, tensor in results.items()}

    def _array(self, tensor: Tensor) -> Any:
        return TensorArray(tensor) if self.spec.is_per_frame else tensor.cpu().numpy()


class _LoopGraph:
    """All turns of a loop on buffers of its tensors' shapes, recorded once."""

    def __init__(self, loader: Any, spec: EngineSpec, loop: Loop, sources: Mapping[str, Tensor]) -> None:
        self._spec, self._loop = spec, loop
        self._videos_and_frames = next(iter(sources.values())).shape[:2]
        self._sources = {name: self._taken(source).clone() for name, source in sources.items()}
        device = next(iter(sources.values())).device
        self._steps = list(torch.arange(loop.count, device=device)[:, None])
        # Twice outside the graph first, on its stream: libraries allocate and choose kernels there.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._unroll(loader)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = self._unroll(loader)

    def _unroll(self, loader: Any) -> dict[str, Tensor]:
        loop = self._loop
        kept: dict[str, Tensor] = {}
        carried = {name: self._sources[source] for name, source in loop.start.items()}
        for turn, step in enumerate(self._steps):
            inputs = {**self._sources, **carried, STEP: step}
            results = loader.run([inputs[tensor.name] for tensor in self._spec.inputs])
            outputs = dict(zip([tensor.name for tensor in self._spec.outputs], results, strict=True))
            kept |= {name: outputs[output] for name, (output, kept_turn) in loop.keep.items() if kept_turn == turn}
            carried = {name: outputs[output] for name, output in loop.carry.items()}
        return kept

    def play(self, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, source in sources.items():
            self._sources[name].copy_(self._taken(source))
        self._graph.replay()
        # The next replay writes where this one did.
        return {name: self._given(tensor).clone() for name, tensor in self._results.items()}

    def _taken(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1)[None] if self._spec.is_per_frame else tensor

    def _given(self, tensor: Tensor) -> Tensor:
        return tensor[0].unflatten(0, self._videos_and_frames) if self._spec.is_per_frame else tensor


def _on_gpu(array: Any) -> Tensor:
    if isinstance(array, TensorArray):
        return array.tensor.contiguous()
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).cuda()


def open_inductor(
    folder: Path, manifest: Manifest, record: BackendRecord, threads: int
) -> dict[str, InductorEngine | CudaInductorEngine]:
    """The folder's packages, each verified before its code is loaded.

    Raises:
        EngineMismatchError: a file is not what the manifest says, or was compiled for another machine or torch.
    """
    engines: dict[str, InductorEngine | CudaInductorEngine] = {}
    specs = manifest.engine_specs()
    for name, engine in record.engines.items():
        file = engine.file
        # The loader takes a path: it gets a copy where only this user writes, and the copy is what is verified.
        with tempfile.TemporaryDirectory(prefix="diffvqa-") as private:
            package = Path(private, f"{name}.pt2")
            copy_verified(folder, file, record.files[file], package)
            engines[name] = _opened(package, folder / file, specs[name], manifest, record)
    return engines


def _opened(
    package: Path, origin: Path, spec: EngineSpec, manifest: Manifest, record: BackendRecord
) -> InductorEngine | CudaInductorEngine:
    try:
        loader: Any = torch._C._aoti.AOTIModelPackageLoader
        metadata = loader.load_metadata_from_package(str(package), _MODEL)
        _check(metadata, origin, manifest)
        if metadata["diffvqa_device"] == "cuda":
            return CudaInductorEngine(spec, package)
        return InductorEngine(spec, package)
    except RuntimeError as error:
        raise EngineMismatchError(
            f"torch {torch.__version__} cannot open {origin}, built by {record.runtime}: {error}"
        ) from error


def _check(metadata: Mapping[str, str], origin: Path, manifest: Manifest) -> None:
    """Raises EngineMismatchError unless the package's code is for this process and its weights are the manifest's."""
    if metadata.get("diffvqa_provenance") != manifest.provenance:
        raise EngineMismatchError(
            f"{origin} was built from another network or other weights than {MANIFEST_NAME} says; "
            "build the engines again"
        )
    device = metadata["diffvqa_device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailableError(f"{origin} was compiled for a GPU and torch sees none here; {_REBUILD}")
    built, here = metadata, _runtime(device)
    for key, what in (("torch", "torch"), ("machine", "a processor of kind"), ("gpu", "a GPU of kind")):
        then, now = built.get(f"diffvqa_{key}"), here.get(f"diffvqa_{key}")
        if then != now:
            raise EngineMismatchError(f"{origin} was compiled for {what} {then}, and this is {now}; {_REBUILD}")
    missing = set(built.get(_FEATURES, "").split()) - set(here.get(_FEATURES, "").split())
    if missing:
        raise EngineMismatchError(
            f"{origin} was compiled for a processor with {', '.join(sorted(missing))}, which this one lacks; {_REBUILD}"
        )
