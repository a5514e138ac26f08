"""Parts of the CUDA runtime: checked calls, and objects that are freed once.

A Jetson, where GPU and CPU share memory, is used the same way.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from adadm.runtime.errors import SessionError, require

_Self = TypeVar("_Self", bound="_Owned")  # typing.Self needs Python 3.11

_REMEDIES = {
    "cudaErrorNoDevice": "no NVIDIA GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES",
    "cudaErrorMemoryAllocation": "too little memory is free: end other programs, run smaller "
    "images or tiles (adadm upscale --tile), or build with a smaller --max",
}


def compute_capability() -> str:
    """Compute capability of the current device, such as `SM87`.

    Raises:
        SessionError: there is no device, or no driver.
    """
    properties = _properties()
    return f"SM{properties.major}{properties.minor}"


def device_name() -> str:
    """Name of the current device, such as `Orin`.

    Raises:
        SessionError: there is no device, or no driver.
    """
    return str(_properties().name.split(b"\0")[0].decode())


def driver_version() -> str | None:
    """CUDA version that the driver supports, such as `12.6`; None without a driver."""
    return _version(_checked(_cudart().cudaDriverGetVersion()))


def runtime_version() -> str | None:
    """CUDA version of the runtime library that cuda-python has loaded."""
    return _version(_checked(_cudart().cudaRuntimeGetVersion()))


def memory() -> tuple[int, int]:
    """Free and total memory of the current device, bytes.

    Raises:
        SessionError: there is no device, or no driver.
    """
    free, total = _checked(_cudart().cudaMemGetInfo())
    return free, total


class _Owned:
    """A CUDA resource that is freed once: when closed, or with the object."""

    def __init__(self, handle: Any, free: Callable[[Any], object]) -> None:
        self.handle = handle
        # The result of `free` is not checked: it may be an earlier error, already reported.
        self._free = weakref.finalize(self, free, handle)

    def close(self) -> None:
        """Free the resource. Idempotent."""
        self._free()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(_Owned):
    """A queue of work, done in order and independently of other streams."""

    def __init__(self) -> None:
        cudart = _cudart()
        handle = _checked(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        super().__init__(handle, cudart.cudaStreamDestroy)

    def __int__(self) -> int:
        """Handle, as TensorRT takes it."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait until all work is done.

        Raises:
            SessionError: some work failed.
        """
        _checked(_cudart().cudaStreamSynchronize(self.handle))


class Event(_Owned):
    """A point in the work of a stream, with the time when it is reached."""

    def __init__(self) -> None:
        cudart = _cudart()
        super().__init__(_checked(cudart.cudaEventCreate()), cudart.cudaEventDestroy)

    def record(self, stream: Stream) -> None:
        """Place the event after the stream's current work."""
        _checked(_cudart().cudaEventRecord(self.handle, stream.handle))

    def synchronize(self) -> None:
        """Wait until the event is reached.

        Raises:
            SessionError: work before it failed.
        """
        _checked(_cudart().cudaEventSynchronize(self.handle))

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds between two events that have been reached."""
        return float(_checked(_cudart().cudaEventElapsedTime(earlier.handle, self.handle)))


class HostBuffer(_Owned):
    """Pinned CPU memory, which the GPU copies from and to in the background.

    Attributes:
        bytes: the memory, uint8; must not be used after the buffer is freed.
    """

    def __init__(self, size: int) -> None:
        cudart = _cudart()
        address = _checked(cudart.cudaMallocHost(size))
        super().__init__(address, cudart.cudaFreeHost)
        self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """View the beginning of the buffer as an array."""
        return self.bytes[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


class DeviceBuffer(_Owned):
    """GPU memory."""

    def __init__(self, size: int) -> None:
        cudart = _cudart()
        super().__init__(_checked(cudart.cudaMalloc(size)), cudart.cudaFree)

    def __int__(self) -> int:
        """Address of the memory."""
        return int(self.handle)

    def upload(self, host: HostBuffer, size: int, stream: Stream) -> None:
        """Enqueue a copy of the first `size` bytes from the CPU."""
        cudart = _cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _checked(cudart.cudaMemcpyAsync(self.handle, host.handle, size, kind, stream.handle))

    def download(self, host: HostBuffer, size: int, stream: Stream) -> None:
        """Enqueue a copy of the first `size` bytes to the CPU."""
        cudart = _cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _checked(cudart.cudaMemcpyAsync(host.handle, self.handle, size, kind, stream.handle))


class Graph(_Owned):
    """Captured work that is launched as a whole."""

    def __init__(self, handle: Any) -> None:
        super().__init__(handle, _cudart().cudaGraphExecDestroy)

    def launch(self, stream: Stream) -> None:
        """Enqueue the work again, at the same addresses."""
        _checked(_cudart().cudaGraphLaunch(self.handle, stream.handle))


def capture(stream: Stream, enqueue: Callable[[], bool]) -> Graph | None:
    """Capture the work that `enqueue` puts on a stream, without running it.

    Args:
        enqueue: returns True on success.

    Returns:
        The graph; None if some work cannot be captured, such as a loop.
    """
    cudart = _cudart()
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    _checked(cudart.cudaStreamBeginCapture(stream.handle, mode))
    try:
        enqueued = enqueue()
    finally:  # else the stream stays blocked
        error, graph = cudart.cudaStreamEndCapture(stream.handle)
    if error != cudart.cudaError_t.cudaSuccess:
        cudart.cudaGetLastError()  # clears the error, which the next call would return
        return None
    try:
        return Graph(_checked(cudart.cudaGraphInstantiate(graph, 0))) if enqueued else None
    finally:
        cudart.cudaGraphDestroy(graph)


def _cudart() -> ModuleType:
    return require("cuda.bindings.runtime", "jetson")


def _properties() -> Any:
    cudart = _cudart()
    return _checked(cudart.cudaGetDeviceProperties(_checked(cudart.cudaGetDevice())))


def _checked(returned: tuple[Any, ...]) -> Any:
    """Values that a call returned; raises its error."""
    error, *values = returned
    cudart = _cudart()
    if error != cudart.cudaError_t.cudaSuccess:
        text = cudart.cudaGetErrorString(error)[1].decode()
        remedy = _REMEDIES.get(error.name) or _remedy_for_driver(error.name)
        raise SessionError(f"CUDA: {error.name}, {text}" + (f"; {remedy}" if remedy else ""))
    return values[0] if len(values) == 1 else tuple(values)


def _remedy_for_driver(name: str) -> str:
    if name != "cudaErrorInsufficientDriver":
        return ""
    supported = driver_version()
    if supported is None:
        return "this machine has no NVIDIA driver; install one to use its GPU"
    return (
        f"the driver supports CUDA {supported}, cuda-python requires {runtime_version()}: update "
        f"the driver, or install the cuda-python of CUDA {supported}"
    )


def _version(number: int) -> str | None:
    """Version text of a CUDA version number: 12060 is 12.6, 0 is None."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None
