# ruff: noqa: N802, N815
"""CUDA and TensorRT as far as the runtime calls them, computing in NumPy, under their own names.

"Device" memory is host memory at its real address, filled with NaN; a stream that captures keeps closures.
"""

import ctypes
import hashlib
import types
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffvqa_rt.chain import Loop
from diffvqa_rt.engines.manifest import BackendRecord, EngineRecord
from diffvqa_rt.engines.tensorrt_backend import ALIGNMENT_BYTES
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.specs import Profile

SPECS = engine_specs(TINY)
FRAMES = 2 * TINY.frames
PROFILE = Profile(opt=1, max=4)


class FakeCuda:
    """What `cuda_memory` calls of `cuda.bindings.runtime`; any touch of memory that is not allocated fails."""

    cudaStreamNonBlocking = 1
    cudaError_t = types.SimpleNamespace(cudaSuccess=0)
    cudaMemcpyKind = types.SimpleNamespace(
        cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down", cudaMemcpyDeviceToDevice="across"
    )
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaDeviceAttr = types.SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )

    def __init__(self, capability=(8, 9), memory_bytes=1 << 30):
        self.capability = capability
        self.memory_bytes = memory_bytes
        self.live = {}
        self.captured = None
        self.launches = 0

    def view(self, address, size_bytes):
        """The bytes of a piece of device memory."""
        assert any(start <= address and address + size_bytes <= start + len(b) for start, b in self.live.items())
        return np.frombuffer((ctypes.c_char * size_bytes).from_address(address), np.uint8)

    def submit(self, work):
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def cudaGetErrorString(self, status):
        return 0, b"out of memory"

    def cudaGetDeviceCount(self):
        return (0, 1) if self.capability else (35, None)

    def cudaGetDevice(self):
        return 0, 0

    def cudaDeviceGetAttribute(self, attribute, device):
        return 0, self.capability[attribute == "minor"]

    def cudaMalloc(self, size_bytes):
        if sum(len(block) for block in self.live.values()) + size_bytes > self.memory_bytes:
            return 2, None
        block = np.full(size_bytes + ALIGNMENT_BYTES, 0xFF, np.uint8)
        block = block[-block.ctypes.data % ALIGNMENT_BYTES :][:size_bytes]
        self.live[block.ctypes.data] = block
        return 0, block.ctypes.data

    def cudaFree(self, address):
        del self.live[address]
        return (0,)

    def cudaMemcpyAsync(self, target, source, size_bytes, kind, stream):
        def view(address, is_device):
            if is_device:
                return self.view(address, size_bytes)
            return np.frombuffer((ctypes.c_char * size_bytes).from_address(address), np.uint8)

        def copy():
            bytes_in = view(source, kind != "up")
            (ctypes.c_char * size_bytes).from_address(view(target, kind != "down").ctypes.data).raw = bytes_in.tobytes()

        self.submit(copy)
        return (0,)

    def cudaStreamCreateWithFlags(self, flags):
        return 0, 7

    def cudaStreamSynchronize(self, stream):
        assert self.captured is None, "a stream that captures cannot be waited for"
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert self.captured is None
        self.captured = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        graph, self.captured = self.captured, None
        return 0, graph

    def cudaGraphInstantiate(self, graph, flags):
        return 0, list(graph)

    def cudaGraphLaunch(self, executable, stream):
        self.launches += 1
        for work in executable:
            work()
        return (0,)

    def cudaGraphDestroy(self, graph):
        return (0,)

    cudaGraphExecDestroy = cudaStreamDestroy = cudaGraphDestroy


class FakeContext:
    """Runs `compute` on what lies at the addresses, as TensorRT's execution context would."""

    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.scratch = engine, {}, {}, None
        self.has_run = False

    def set_input_shape(self, name, shape):
        assert not self.has_run, "a graph belongs to the shapes that it was captured with"
        self.shapes[name] = tuple(shape)
        return True

    def update_device_memory_size_for_shapes(self):
        return self.engine.scratch_bytes * self.videos

    def set_device_memory(self, address, size_bytes):
        assert size_bytes >= self.update_device_memory_size_for_shapes()
        self.scratch = address, size_bytes

    def is_stream_capturable(self, stream):
        return self.engine.is_capturable

    def set_tensor_address(self, name, address):
        assert address % ALIGNMENT_BYTES == 0
        self.addresses[name] = address
        return True

    @property
    def videos(self):
        return next(iter(self.shapes.values()))[0]

    def execute_async_v3(self, stream):
        cuda, spec, addresses, scratch = self.engine.cuda, self.engine.spec, dict(self.addresses), self.scratch
        if self.engine.is_broken:
            self.engine.library.errors.append("it broke")
            return False
        assert cuda.captured is None or self.has_run, "TensorRT wants a run at these shapes before it is captured"
        self.has_run = True
        self.engine.runs += 1

        def run():
            cuda.view(*scratch)[:8]
            inputs = {}
            for tensor in spec.inputs:
                shape = self.shapes.get(tensor.name, tensor.shape)
                size_bytes = int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize
                inputs[tensor.name] = cuda.view(addresses[tensor.name], size_bytes).view(tensor.dtype).reshape(shape)
            # A kernel that reads where it writes: the outputs are spoilt before the inputs are used.
            values = None
            if not any(addresses[o.name] == addresses[i.name] for o in spec.outputs for i in spec.inputs):
                values = self.engine.compute(inputs)
            for name, array in (values or {o.name: np.full(1, np.nan, np.float32) for o in spec.outputs}).items():
                cuda.view(addresses[name], array.nbytes)
                ctypes.memmove(addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)

        cuda.submit(run)
        return True


class FakeEngine:
    def __init__(self, spec, cuda, library, compute, name=""):
        self.spec, self.cuda, self.library, self.compute, self.name = spec, cuda, library, compute, name
        self.scratch_bytes, self.runs, self.is_capturable, self.is_broken = 1000, 0, True, False
        self.contexts = []

    def get_tensor_profile_shape(self, name, index):
        (tensor,) = (t for t in self.spec.inputs if t.name == name)
        return [
            [{"videos": v, "frames": FRAMES}.get(size, size) for size in tensor.shape]
            for v in (PROFILE.min, PROFILE.opt, PROFILE.max)
        ]

    def create_runtime_config(self):
        return types.SimpleNamespace(set_execution_context_allocation_strategy=lambda strategy: None)

    def create_execution_context(self, config):
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class FakeLibrary:
    """In place of `tensorrt_library.Library`, with a module that opens what `engines` holds by plan."""

    is_rtx, label, log = True, "tensorrt-rtx 0.0", None

    def __init__(self):
        self.errors, self.engines, self.refitted = [], {}, []
        library = self

        class Parser:
            def __init__(self, refitter, log): ...

            def refit_from_bytes(self, model, path):
                library.refitted.append((model, Path(f"{path}.data").read_bytes()))
                library.errors.append("a weight is missing")
                return b"foreign" not in model

        self.trt = types.SimpleNamespace(
            ExecutionContextAllocationStrategy=types.SimpleNamespace(USER_MANAGED="ours"),
            DynamicShapesKernelSpecializationStrategy=types.SimpleNamespace(EAGER="eager"),
            Runtime=lambda log: types.SimpleNamespace(deserialize_cuda_engine=self.open),
            Refitter=lambda engine, log: types.SimpleNamespace(refit_cuda_engine=lambda: True),
            OnnxParserRefitter=Parser,
        )

    def open(self, plan):
        engine = self.engines.get(bytes(plan))
        if engine is None:
            self.errors.append("bad header")
        return engine

    def clear_errors(self):
        self.errors.clear()

    def first_error(self):
        return self.errors[0]


def step_in_numpy(inputs):
    """A step whose result depends on every input and on the order of the steps; z is not read in step 0."""
    step, z0 = int(inputs["step"][0]), inputs["z0"]
    z = z0 if step == 0 else inputs["z"]
    outputs = {"z_next": (0.5 * z + 0.25 * z0 + step / 8).astype(np.float32)}
    for index, tensor in enumerate(SPECS["unet_controller"].outputs[1:]):
        mean = outputs["z_next"].mean(axis=(2, 3, 4), keepdims=True)
        outputs[tensor.name] = np.broadcast_to(mean * (index + 1), (*z.shape[:2], *tensor.shape[2:])).copy()
    return outputs


def encode_in_numpy(inputs):
    h, w = TINY.latent_shape[1:]
    z0 = inputs["frames"][:, :, :1, :h, :w] * np.arange(1, 5, dtype=np.float32)[:, None, None]
    return {"z0": z0.astype(np.float32)}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record_of(folder, files, plans, runtime="tensorrt-rtx 0.0"):
    """A backend's record, of plans by engine name."""
    head = plans["head"]
    return BackendRecord(
        runtime=runtime,
        precision="fp32",
        device=head.device,
        scan=head.scan,
        settings=head.settings,
        files={file: sha256(folder / file) for file in files},
        engines={
            name: EngineRecord(file=f"{name}.plan", inputs=spec.inputs, outputs=spec.outputs)
            for name, spec in SPECS.items()
        },
        parity=None,
    )


def loop_of(turns, keep=None):
    """The network's loop with so many turns; it keeps the last one's outputs, or what is given."""
    (loop,) = (item for item in METRIC.chain(TINY) if isinstance(item, Loop))
    return replace(
        loop, count=turns, keep=keep or {name: (output, turns - 1) for name, (output, _) in loop.keep.items()}
    )
