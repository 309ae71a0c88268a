"""ONNX Runtime, on the CPU (`onnx`) and on an NVIDIA GPU (`onnx-cuda`): the same files."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import DTypeLike, NDArray

from diffvqa_rt.chain import STEP, Loop
from diffvqa_rt.engines.manifest import PROVENANCE_KEY, BackendRecord, Manifest
from diffvqa_rt.engines.shares import equal_shares
from diffvqa_rt.engines.verification import listed_data_files, map_verified, read_verified
from diffvqa_rt.errors import DeviceUnavailableError, EngineMismatchError
from diffvqa_rt.extras import install_command
from diffvqa_rt.forking import renew_in_children
from diffvqa_rt.specs import MANIFEST_NAME, EngineSpec

# Of a run's first input, where frames are the work: two frames of `tiny`, whose encoder stays in the cache with them.
# That is 1.07 times as fast as eight, and takes 20 MiB in the place of 93 (two Xeon cores, onnxruntime 1.31).
_MOST_FRAME_BYTES = 1 << 20


class OnnxEngine:
    """An ONNX model on the CPU behind the engine protocol.

    An engine whose frames or rows are worth it runs them in up to `threads` shares, one single-threaded run each:
    without a barrier after every node two cores finish a tiny step 1.2 times sooner, and the shares stay in their
    core's cache. Neither frames nor rows see each other, so no bit depends on the cut (a test holds that). The rest is
    one single-threaded run: DiffVQA's scan steps through tiny nodes, where a second thread gains 7 % on free cores and
    costs up to 2.5 times on busy ones.
    """

    max_videos = None

    def __init__(self, spec: EngineSpec, session: onnxruntime.InferenceSession, threads: int) -> None:
        self.spec = spec
        self._session = session
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Makes the pool, whose threads a forked child would wait for in vain."""
        self._pool = ThreadPoolExecutor(self.threads) if self.is_rowwise and self.threads > 1 else None

    @property
    def is_rowwise(self) -> bool:
        """True where frames or rows are its work; ONNX Runtime's kernels on a CPU give each the same bits alone."""
        return self.spec.is_per_frame or self.spec.is_cut_by_row

    def __call__(self, inputs: Mapping[str, NDArray], outputs: Sequence[str] | None = None) -> dict[str, NDArray]:
        self.spec.check_inputs(inputs)
        names = list(outputs) if outputs is not None else [output.name for output in self.spec.outputs]
        axis = 1 if self.spec.is_per_frame else 0
        first = inputs[self.spec.inputs[0].name]
        count = self._runs(first.shape[axis], first.nbytes)
        if count < 2:
            return dict(zip(names, self._session.run(names, inputs), strict=True))
        cut = {spec.name for spec in self.spec.inputs if "videos" in spec.shape}
        shares = [
            {name: array[(slice(None),) * axis + (part,)] if name in cut else array for name, array in inputs.items()}
            for part in equal_shares(first.shape[axis], count)
        ]
        run_in_turn = map if self._pool is None else self._pool.map
        results = list(run_in_turn(lambda share: self._session.run(names, share), shares))
        return {name: np.concatenate(parts, axis=axis) for name, *parts in zip(names, *results, strict=True)}

    def _runs(self, items: int, size: int) -> int:
        """The number of runs for so many frames or rows, of so many bytes in the first input."""
        shares = 1 if self._pool is None else min(items, self.threads)
        return max(shares, min(items, -(-size // _MOST_FRAME_BYTES))) if self.spec.is_per_frame else shares


class OnnxRowEngine(OnnxEngine):
    """An ONNX model whose rows are work enough for a thread: in a loop each row is played by itself.

    No thread waits for another's rows between two turns: two threads play five rows in the time of two and a half, not
    in that of three.
    """

    def loop(
        self, loop: Loop, tensors: Mapping[str, NDArray], before_turn: Callable[[], None] = lambda: None
    ) -> dict[str, NDArray]:
        """The loop's kept tensors, as `diffvqa_rt.chain.run_loop`."""
        rows = len(tensors[loop.inputs[0]])
        carried = [{name: tensors[source][row : row + 1] for name, source in loop.start.items()} for row in range(rows)]
        kept: list[dict[str, NDArray]] = [{} for _ in range(rows)]
        waiting = deque((row, 0) for row in range(rows))
        is_over = threading.Event()

        def play_rows(before_turn: Callable[[], None]) -> None:
            try:
                while not is_over.is_set() and (next_up := _taken_from(waiting)) is not None:
                    before_turn()
                    play_turn(*next_up)
            except BaseException:
                is_over.set()
                raise

        def play_turn(row: int, turn: int) -> None:
            fixed = {name: tensors[name][row : row + 1] for name in loop.inputs}
            outputs = self({**fixed, **carried[row], STEP: np.array([turn])}, loop.wanted_in(turn))
            kept[row] |= {name: outputs[output] for name, (output, when) in loop.keep.items() if when == turn}
            if turn + 1 < loop.count:
                carried[row] = {name: outputs[output] for name, output in loop.carry.items()}
                waiting.append((row, turn + 1))

        others = []
        if self._pool is not None:
            others = [self._pool.submit(play_rows, lambda: None) for _ in range(min(rows, self.threads) - 1)]
        try:
            play_rows(before_turn)  # in this thread alone: a server asks for its request there
        finally:
            wait(others)
        for other in others:
            other.result()
        return {name: np.concatenate([row[name] for row in kept]) for name in loop.keep}


def _taken_from(waiting: deque[tuple[int, int]]) -> tuple[int, int] | None:
    """The next row and its turn; None where each row is done, or in another thread."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


class OnnxCudaEngine:
    """An ONNX model on a GPU. Outputs stay there as `OnnxDeviceArray`, and come back as inputs without a copy.

    `device` is where the session puts its outputs: `cuda`, or `cpu` for a test without a GPU.
    """

    max_videos = None

    def __init__(self, spec: EngineSpec, session: onnxruntime.InferenceSession, device: str = "cuda") -> None:
        self.spec = spec
        self._session = session
        self._device = device

    def __call__(
        self, inputs: Mapping[str, "NDArray | OnnxDeviceArray"], outputs: Sequence[str] | None = None
    ) -> dict[str, "OnnxDeviceArray"]:
        self.spec.check_inputs(inputs)
        names = list(outputs) if outputs is not None else [output.name for output in self.spec.outputs]
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, OnnxDeviceArray):
                binding.bind_ortvalue_input(name, value.ort_value)
            else:
                binding.bind_cpu_input(name, np.require(value, requirements="C"))  # keeps a scalar a scalar
        for name in names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()  # a stage's time is its own
        return {name: OnnxDeviceArray(value) for name, value in zip(names, binding.get_outputs(), strict=True)}


class OnnxDeviceArray:
    """An array on ONNX Runtime's device; NumPy copies it to the host where it needs the values."""

    def __init__(self, ort_value: onnxruntime.OrtValue) -> None:
        self.ort_value = ort_value
        self.shape = tuple(ort_value.shape())
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.float32)  # of every engine's every output (`specs`)

    def __array__(self, dtype: DTypeLike | None = None, /, *, copy: bool | None = None) -> NDArray:
        return self.ort_value.numpy().astype(dtype or self.dtype, copy=False)


def open_onnx(folder: Path, manifest: Manifest, record: BackendRecord, threads: int) -> dict[str, OnnxEngine]:
    """The folder's ONNX engines on the CPU. Raises EngineMismatchError for a file that is not what was built."""
    sessions = _open_sessions(folder, manifest, record, "CPUExecutionProvider", cpu_session_options)
    specs = manifest.engine_specs()
    return {name: onnx_engine(specs[name], session, threads) for name, session in sessions.items()}


def onnx_engine(spec: EngineSpec, session: onnxruntime.InferenceSession, threads: int) -> OnnxEngine:
    """The engine of a session on the CPU."""
    return (OnnxRowEngine if spec.is_cut_by_row else OnnxEngine)(spec, session, threads)


def open_onnx_cuda(folder: Path, manifest: Manifest, record: BackendRecord, threads: int) -> dict[str, OnnxCudaEngine]:
    """The folder's ONNX engines on the first GPU. Raises EngineMismatchError as `open_onnx`, or where there is none."""
    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise DeviceUnavailableError(
            f"this ONNX Runtime runs on the CPU only; for the onnx-cuda backend replace it: {install_command('gpu')}"
        )
    # float32 is float32: TF32 keeps 10 bits. And no kernel is chosen by a stopwatch, which differs from start to start.
    settings = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    sessions = _open_sessions(folder, manifest, record, (provider, settings), _options)
    for name, session in sessions.items():
        # Without a usable GPU, ONNX Runtime goes on with the CPU and says so in a log that nobody reads.
        if provider not in session.get_providers():
            raise DeviceUnavailableError(f"{name}: ONNX Runtime finds no GPU that it can use; take the onnx backend")
    specs = manifest.engine_specs()
    return {name: OnnxCudaEngine(specs[name], session) for name, session in sessions.items()}


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # ONNX Runtime's warnings are about its own optimiser; errors reach the caller as exceptions.
    options.log_severity_level = 3
    return options


def cpu_session_options() -> onnxruntime.SessionOptions:
    options = _options()
    options.intra_op_num_threads = 1
    # Planned reuse of buffers costs `tiny` 6 % of its time and 670 MB in the place of 450 (two Xeon cores,
    # onnxruntime 1.31).
    options.enable_mem_reuse = False
    return options


def _open_sessions(
    folder: Path,
    manifest: Manifest,
    record: BackendRecord,
    provider: str | tuple[str, dict[str, str]],
    make_options: Callable[[], onnxruntime.SessionOptions],
) -> dict[str, onnxruntime.InferenceSession]:
    sessions = {}
    for name, engine in record.engines.items():
        path = folder / engine.file
        model = read_verified(folder, engine.file, record.files[engine.file])
        with contextlib.ExitStack() as stack:
            data = {
                location: stack.enter_context(map_verified(folder, file, record.files[file]))
                for location, file in listed_data_files(model, engine.file, folder, record.files.keys()).items()
            }
            options = make_options()
            if data:
                # From memory that was verified: of a model in bytes, ONNX Runtime would look for them by itself.
                sizes = [len(content) for content in data.values()]
                options.add_external_initializers_from_files_in_memory(list(data), list(data.values()), sizes)
            try:
                session = onnxruntime.InferenceSession(model, options, providers=[provider])
            except Exception as error:  # ONNX Runtime's own exception classes share no documented base
                raise EngineMismatchError(
                    f"onnxruntime {onnxruntime.__version__} cannot open {path}, built by {record.runtime}: {error}"
                ) from error
        if session.get_modelmeta().custom_metadata_map.get(PROVENANCE_KEY, "") != manifest.provenance:
            raise EngineMismatchError(
                f"{path} was built from another network or other weights than {MANIFEST_NAME} says; "
                "build the engines again"
            )
        sessions[name] = session
    return sessions
