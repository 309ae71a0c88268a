"""Device memory, a stream and its graphs, through NVIDIA's `cuda-bindings`: an engine runs on a GPU without torch."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart
from numpy.typing import DTypeLike, NDArray

from diffvqa_rt.errors import DiffVQAError


class CudaError(DiffVQAError):
    """A CUDA call failed: most often, the GPU's memory is used up."""


def _call(result: tuple[Any, ...]) -> Any:
    """The value that a CUDA call returns beside its status."""
    status, *values = result
    if status != cudart.cudaError_t.cudaSuccess:
        raise CudaError(f"CUDA failed: {cudart.cudaGetErrorString(status)[1].decode()}")
    return values[0] if values else None


def gpu_architecture() -> str | None:
    """The current GPU's, as `sm_89`; None without a GPU, or without a driver that these bindings can use."""
    status, count = cudart.cudaGetDeviceCount()
    if status != cudart.cudaError_t.cudaSuccess or not count:
        return None
    device = _call(cudart.cudaGetDevice())
    attributes = cudart.cudaDeviceAttr
    major = _call(cudart.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMajor, device))
    minor = _call(cudart.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMinor, device))
    return f"sm_{major}{minor}"


class Allocation:
    """A piece of device memory, contents undefined; freed with the last object that refers to it."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.address = int(_call(cudart.cudaMalloc(max(size_bytes, 1))))
        # It waits for whatever still uses the memory.
        weakref.finalize(self, cudart.cudaFree, self.address)


class Graph:
    """Work that a stream has recorded, ready to run again with the same addresses."""

    def __init__(self, executable: Any) -> None:
        self._executable = executable
        weakref.finalize(self, cudart.cudaGraphExecDestroy, executable)

    def launch(self, stream: "Stream") -> None:
        _call(cudart.cudaGraphLaunch(self._executable, stream.handle))


class Stream:
    """The order in which a GPU does what it is asked to."""

    def __init__(self) -> None:
        self.handle = int(_call(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking)))
        weakref.finalize(self, cudart.cudaStreamDestroy, self.handle)

    def upload(self, address: int, array: NDArray) -> None:
        array = np.ascontiguousarray(array)
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        # Returns once the bytes have left the array: pageable memory is staged.
        _call(cudart.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.handle))

    def download(self, array: NDArray, address: int) -> None:
        """Fills a contiguous array, and returns when it is full."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(cudart.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.handle))
        self.synchronize()

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        _call(cudart.cudaMemcpyAsync(target, source, size_bytes, kind, self.handle))

    def synchronize(self) -> None:
        _call(cudart.cudaStreamSynchronize(self.handle))

    def capture(self, work: Callable[[], None]) -> Graph:
        """The work that `work` asks of this stream, recorded and not run."""
        _call(cudart.cudaStreamBeginCapture(self.handle, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        try:
            work()
        except BaseException:
            cudart.cudaStreamEndCapture(self.handle)  # a stream left capturing runs nothing any more
            raise
        graph = _call(cudart.cudaStreamEndCapture(self.handle))
        try:
            return Graph(_call(cudart.cudaGraphInstantiate(graph, 0)))
        finally:
            cudart.cudaGraphDestroy(graph)


class DeviceArray:
    """An array in device memory: an engine takes it as it takes a NumPy array, and `np.asarray` copies it to the host.

    One that an engine returned holds its values until that engine's next call.
    """

    def __init__(self, allocation: Allocation, shape: tuple[int, ...], dtype: DTypeLike, stream: Stream) -> None:
        self.allocation = allocation
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._stream = stream

    @property
    def address(self) -> int:
        return self.allocation.address

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            raise ValueError("an array on a device cannot be read without a copy")
        array = np.empty(self.shape, self.dtype)
        self._stream.download(array, self.address)
        return array if dtype is None else array.astype(dtype, copy=False)
