"""TensorRT and TensorRT for RTX on an NVIDIA GPU.

What the engines hand each other stays on the GPU: they return `DeviceArray`s, and take them beside NumPy arrays. All
engines of a folder share a stream and their working memory, so they run one after the other, from one thread.
"""

import functools
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffvqa_rt.chain import STEP, Loop
from diffvqa_rt.engines.cuda_memory import Allocation, CudaError, DeviceArray, Graph, Stream, gpu_architecture
from diffvqa_rt.engines.manifest import PROVENANCE_KEY, BackendRecord, Manifest
from diffvqa_rt.engines.tensorrt_library import Library, TensorRTName, load_library
from diffvqa_rt.engines.verification import copy_verified, listed_data_files, onnx_metadata, read_verified
from diffvqa_rt.errors import DeviceUnavailableError, DiffVQAError, EngineMismatchError
from diffvqa_rt.specs import MANIFEST_NAME, Array, EngineSpec

logger = logging.getLogger(__name__)

# What TensorRT asks of a tensor's address.
ALIGNMENT_BYTES = 256


class EngineRunError(DiffVQAError):
    """TensorRT refused to run an engine."""


class Gpu:
    """The things that the engines of a folder share: the stream, and the working memory of whichever of them runs."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.scratch = Allocation(0)

    def reserve(self, size_bytes: int) -> None:
        if size_bytes > self.scratch.size_bytes:
            self.scratch = Allocation(size_bytes)


class _Context:
    """An execution context at one number of videos.

    Its shapes are set once: TensorRT's graphs belong to the shapes, and to the context, that they were captured with.
    """

    def __init__(self, library: Library, engine: Any, shapes: Mapping[str, tuple[int, ...]], gpu: Gpu) -> None:
        trt = library.trt
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if library.is_rtx:
            # Lazily, RTX would change kernels under a running service, and with them the last bits of a score.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._library, self._gpu = library, gpu
        library.clear_errors()
        self._context = engine.create_execution_context(config)
        if self._context is None:
            raise EngineRunError(f"{library.label} made no execution context: {library.first_error()}")
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise EngineRunError(f"{library.label} refused {name} of shape {shape}: {library.first_error()}")
        self._scratch_bytes = self._context.update_device_memory_size_for_shapes()
        self.graph: Graph | None = None
        self.captured: tuple[Loop, tuple[int, ...]] | None = None

    @property
    def can_be_captured(self) -> bool:
        # Full TensorRT does not say; it captures whatever has no data-dependent shapes, and none of ours has.
        return not self._library.is_rtx or bool(self._context.is_stream_capturable(self._gpu.stream.handle))

    def take_scratch(self) -> None:
        """To be called before the engine runs: another engine may have moved the shared memory."""
        self._gpu.reserve(self._scratch_bytes)
        self._context.set_device_memory(self._gpu.scratch.address, self._gpu.scratch.size_bytes)

    def run(self, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        self._library.clear_errors()
        if not self._context.execute_async_v3(self._gpu.stream.handle):
            raise EngineRunError(f"{self._library.label} could not run the engine: {self._library.first_error()}")


class TensorRTEngine:
    """A plan behind the engine protocol. The arrays that it returns hold their values until its next call."""

    def __init__(self, spec: EngineSpec, engine: Any, library: Library, gpu: Gpu) -> None:
        self.spec = spec
        self._engine, self._library, self._gpu = engine, library, gpu
        self._ranges = {
            tensor.name: tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(tensor.name, 0)[::2])
            for tensor in spec.inputs
            if "videos" in tensor.shape
        }
        self._contexts: dict[tuple[tuple[int, ...], ...], _Context] = {}
        self._allocations: dict[str, Allocation] = {}
        self._step_count = 0

    @property
    def max_videos(self) -> int:
        """The number of videos that the plan takes at a time."""
        return min(largest[0] for _, largest in self._ranges.values())

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, DeviceArray]:
        """The named outputs (all of them by default).

        Raises:
            ValueError: the inputs don't fit the spec, or the profile that the plan was built with.
            CudaError, EngineRunError: the GPU's memory is used up, or TensorRT failed.
        """
        self._check(inputs)
        context = self._context(inputs)
        results = self._outputs(inputs)
        own = {id(array.allocation) for array in results.values()}
        addresses = {name: array.address for name, array in results.items()}
        for tensor in self.spec.inputs:
            array = inputs[tensor.name]
            # What this very engine returned lies where its next outputs go.
            if isinstance(array, DeviceArray) and id(array.allocation) not in own:
                addresses[tensor.name] = array.address
            else:
                addresses[tensor.name] = self._place(tensor.name, array)
        context.take_scratch()
        context.run(addresses)
        self._gpu.stream.synchronize()  # what fails, and how long it takes, is this engine's and not the next one's
        return results if outputs is None else {name: results[name] for name in outputs}

    def loop(
        self, loop: Loop, tensors: Mapping[str, Array], before_turn: Callable[[], None] = lambda: None
    ) -> dict[str, DeviceArray]:
        """All turns of a loop over this engine, as `diffvqa_rt.chain.run_loop`.

        The first call with a number of videos runs turn by turn, which TensorRT wants before it is captured; the later
        ones replay all turns as one CUDA graph.

        Returns:
            The loop's kept tensors by the chain's names.

        Raises:
            ValueError, CudaError, EngineRunError: as a call of the engine.
        """
        before_turn()
        sources = {name: name for name in loop.inputs} | dict(loop.start)
        inputs: dict[str, Array] = {name: tensors[source] for name, source in sources.items()}
        inputs[STEP] = np.zeros(1, np.int64)
        self._check(inputs)
        context = self._context(inputs)
        results = self._outputs(inputs)
        placed = {name: self._place(f"loop:{name}", tensors[name]) for name in sorted(loop.reads)}
        turns = self._turns(loop, placed, results)
        kept = self._kept(loop, results)
        context.take_scratch()

        def run_turns() -> None:
            for turn, addresses in enumerate(turns):
                context.run(addresses)
                for name, (output, kept_turn) in loop.keep.items():
                    if kept_turn == turn < loop.count - 1:  # which the next turns overwrite
                        self._gpu.stream.copy(kept[name].address, addresses[output], kept[name].nbytes)

        addresses = (
            *(address for turn in turns for address in turn.values()),
            *(array.address for array in kept.values()),
            self._gpu.scratch.address,
        )
        if context.graph is not None and context.captured == (loop, addresses):
            context.graph.launch(self._gpu.stream)
            self._gpu.stream.synchronize()
            return kept
        context.graph = None
        run_turns()
        self._gpu.stream.synchronize()
        if context.can_be_captured:
            try:
                context.graph = self._gpu.stream.capture(run_turns)
                context.captured = loop, addresses
            except (CudaError, EngineRunError) as error:
                # The turns have run, and what they gave is there.
                logger.warning("%s could not capture %s: %s", self._library.label, self.spec.name, error)
        else:
            logger.warning("%s cannot capture %s: it runs step by step", self._library.label, self.spec.name)
        return kept

    def _turns(self, loop: Loop, placed: Mapping[str, int], results: Mapping[str, DeviceArray]) -> list[dict[str, int]]:
        """The addresses of every turn's tensors.

        What is carried goes to and fro between the output's memory and another, and ends in the output's.
        """
        fixed = {name: array.address for name, array in results.items()} | {name: placed[name] for name in loop.inputs}
        others = {
            output: self._allocation(f"loop:other {output}", results[output].nbytes).address
            for output in loop.carry.values()
        }
        turns = []
        carried = {name: placed[source] for name, source in loop.start.items()}
        for turn, step in enumerate(self._step_addresses(loop.count)):
            is_others = (loop.count - turn) % 2 == 0
            outputs = {
                output: others[output] if is_others else results[output].address for output in loop.carry.values()
            }
            turns.append({**fixed, **carried, **outputs, STEP: step})
            carried = {name: outputs[output] for name, output in loop.carry.items()}
        return turns

    def _kept(self, loop: Loop, results: Mapping[str, DeviceArray]) -> dict[str, DeviceArray]:
        """The loop's tensors: the last turn's in the outputs' memory, those of earlier turns in memory of their own."""
        kept = {}
        for name, (output, turn) in loop.keep.items():
            array = results[output]
            if turn < loop.count - 1:
                allocation = self._allocation(f"loop:kept {name}", array.nbytes)
                array = DeviceArray(allocation, array.shape, array.dtype, self._gpu.stream)
            kept[name] = array
        return kept

    def _check(self, inputs: Mapping[str, Any]) -> None:
        self.spec.check_inputs(inputs)
        for name, (smallest, largest) in self._ranges.items():
            shape = inputs[name].shape
            if not all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)):
                raise ValueError(
                    f"{self.spec.name} was built for {name} from {smallest} to {largest}; got {shape}: "
                    "pass fewer videos at a time, or build with another profile"
                )

    def _context(self, inputs: Mapping[str, Array]) -> _Context:
        shapes = {name: inputs[name].shape for name in self._ranges}
        key = tuple(shapes.values())
        if key not in self._contexts:
            self._contexts[key] = _Context(self._library, self._engine, shapes, self._gpu)
        return self._contexts[key]

    def _outputs(self, inputs: Mapping[str, Array]) -> dict[str, DeviceArray]:
        sizes = {
            dimension: size
            for tensor in self.spec.inputs
            for dimension, size in zip(tensor.shape, inputs[tensor.name].shape, strict=True)
            if isinstance(dimension, str)
        }
        results = {}
        for tensor in self.spec.outputs:
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)
            size_bytes = int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize
            allocation = self._allocation(tensor.name, size_bytes)
            results[tensor.name] = DeviceArray(allocation, shape, tensor.dtype, self._gpu.stream)
        return results

    def _allocation(self, name: str, size_bytes: int) -> Allocation:
        """Memory of that name, grown where a larger V comes."""
        found = self._allocations.get(name)
        if found is None or found.size_bytes < size_bytes:
            found = self._allocations[name] = Allocation(size_bytes)
        return found

    def _place(self, name: str, array: Array) -> int:
        """The address of the engine's own copy of an input."""
        if isinstance(array, DeviceArray):
            address = self._allocation(name, array.nbytes).address
            self._gpu.stream.copy(address, array.address, array.nbytes)
        else:
            values = np.asarray(array)
            address = self._allocation(name, values.nbytes).address
            self._gpu.stream.upload(address, values)
        return address

    def _step_addresses(self, steps: int) -> list[int]:
        """The addresses of the turns' numbers on the GPU, each at an address that TensorRT takes."""
        table = np.zeros((steps, ALIGNMENT_BYTES // np.dtype(np.int64).itemsize), np.int64)
        table[:, 0] = np.arange(steps)
        allocation = self._allocation("loop:step", table.nbytes)
        if self._step_count < steps:
            self._gpu.stream.upload(allocation.address, table)
            self._step_count = steps
        return [allocation.address + step * ALIGNMENT_BYTES for step in range(steps)]


def weights_file(plan_file: str) -> str:
    """The file of a stripped plan's weights, beside it: an ONNX file, whose own data may be in `.onnx.data`."""
    return Path(plan_file).with_suffix(".onnx").as_posix()


def open_plans(
    folder: Path, manifest: Manifest, record: BackendRecord, threads: int, *, runtime: TensorRTName
) -> dict[str, TensorRTEngine]:
    """The folder's engines, on the current GPU; `threads` is for runtimes of a CPU.

    Raises:
        DeviceUnavailableError: there is no GPU, or one that the plans were not built for.
        EngineMismatchError: a file is not what the manifest says, or the plans are of another version of the runtime.
        ModuleNotFoundError: the runtime is not installed.
    """
    library = load_library(runtime)
    rebuild = f"build them here: python export/build_engines.py --backend {runtime}"
    if record.runtime != library.label and not record.is_version_compatible:
        raise EngineMismatchError(
            f"{folder} has engines of {record.runtime}, and {library.label} is installed; install that version, or "
            f"{rebuild}"
        )
    architecture = gpu_architecture()
    if architecture is None:
        raise DeviceUnavailableError(
            f"the {runtime} engines need an NVIDIA GPU and its driver, and none was found; use the onnx backend on "
            "this machine"
        )
    if architecture not in record.device.split(", "):
        # RTX's list is all that it can build for ahead of time.
        remedy = "use the tensorrt backend on it" if library.is_rtx else rebuild
        raise DeviceUnavailableError(
            f"the {runtime} engines were built for {record.device}, and this GPU is {architecture}; {remedy}"
        )
    gpu = Gpu()
    opener = library.trt.Runtime(library.log)
    if record.is_version_compatible:
        # Such a plan carries the runtime that it was built with, as code; its hash is checked below.
        opener.engine_host_code_allowed = True
    specs = manifest.engine_specs()
    engines = {}
    for name, built in record.engines.items():
        library.clear_errors()
        file = built.file
        engine = opener.deserialize_cuda_engine(read_verified(folder, file, record.files[file]))
        if engine is None:
            raise EngineMismatchError(
                f"{library.label} cannot open {folder / file}: {library.first_error()}; {rebuild}"
            )
        # A stripped plan belongs to no weights; the ONNX file that they come from says which they are.
        origin = refit(engine, library, folder, record, file) if record.is_stripped else engine.name
        if origin != manifest.provenance:
            raise EngineMismatchError(
                f"{folder / file} was built from another network or other weights than {MANIFEST_NAME} says; "
                "build the engines again"
            )
        engines[name] = TensorRTEngine(specs[name], engine, library, gpu)
    return engines


open_tensorrt = functools.partial(open_plans, runtime="tensorrt")
open_tensorrt_rtx = functools.partial(open_plans, runtime="tensorrt-rtx")


def refit(engine: Any, library: Library, folder: Path, record: BackendRecord, plan_file: str) -> str:
    """Gives a stripped plan the weights of the ONNX file beside it.

    Returns:
        The provenance that the ONNX file carries.

    Raises:
        EngineMismatchError: they don't fit, or a file is not what the manifest says.
    """
    file = weights_file(plan_file)
    refitter = library.trt.Refitter(engine, library.log)
    parser = library.trt.OnnxParserRefitter(refitter, library.log)
    model = read_verified(folder, file, record.files[file])
    # TensorRT reads a model's data by path: it gets copies in a folder of this process's own, and those are verified.
    with tempfile.TemporaryDirectory(prefix="diffvqa-") as private:
        for location, data_file in listed_data_files(model, file, folder, record.files.keys()).items():
            copy_verified(folder, data_file, record.files[data_file], Path(private, location))
        path = Path(private, Path(file).name)
        is_refitted = parser.refit_from_bytes(model, str(path)) and refitter.refit_cuda_engine()
    if not is_refitted:
        raise EngineMismatchError(
            f"{library.label} cannot put the weights of {folder / file} into {folder / plan_file}: "
            f"{library.first_error()}; build the engines again"
        )
    return onnx_metadata(model).get(PROVENANCE_KEY, "")
