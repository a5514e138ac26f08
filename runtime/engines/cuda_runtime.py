"""What the toolkit needs of the CUDA runtime: checked calls, and objects that are freed once.

On a Jetson, where GPU and CPU share their memory, it is used the same way.
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
    "cudaErrorNoDevice": "no NVIDIA GPU is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES",
    "cudaErrorMemoryAllocation": "too little memory is free: end other programs, run smaller "
    "images or tiles (adadm upscale --tile), or build with a smaller --max",
}


def compute_capability() -> str:
    """Of the current device, such as `SM87`.

    Raises:
        SessionError: there is no device, or no driver.
    """
    properties = _properties()
    return f"SM{properties.major}{properties.minor}"


def device_name() -> str:
    """Of the current device, such as `Orin`.

    Raises:
        SessionError: there is no device, or no driver.
    """
    return str(_properties().name.split(b"\0")[0].decode())


def driver_version() -> str | None:
    """The CUDA version that the driver supports, such as `12.6`; None without a driver."""
    return _version(_checked(_cudart().cudaDriverGetVersion()))


def runtime_version() -> str | None:
    """The CUDA version of the runtime library that cuda-python has loaded."""
    return _version(_checked(_cudart().cudaRuntimeGetVersion()))


def memory() -> tuple[int, int]:
    """Bytes of the current device that are free, and all of them.

    Raises:
        SessionError: there is no device, or no driver.
    """
    free, total = _checked(_cudart().cudaMemGetInfo())
    return free, total


class _Owned:
    """Something of CUDA's that is freed once: when closed, or with the object."""

    def __init__(self, handle: Any, free: Callable[[Any], object]) -> None:
        self.handle = handle
        # What `free` returns is not checked: it may be the error of earlier work, long reported.
        self._free = weakref.finalize(self, free, handle)

    def close(self) -> None:
        """Free it. Twice is as good as once."""
        self._free()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(_Owned):
    """Work that is done in order, and does not wait for that of others."""

    def __init__(self) -> None:
        cudart = _cudart()
        handle = _checked(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        super().__init__(handle, cudart.cudaStreamDestroy)

    def __int__(self) -> int:
        """As TensorRT takes it."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait until all is done.

        Raises:
            SessionError: some of it failed.
        """
        _checked(_cudart().cudaStreamSynchronize(self.handle))


class Event(_Owned):
    """A point in the work of a stream, with the time at which it is reached."""

    def __init__(self) -> None:
        cudart = _cudart()
        super().__init__(_checked(cudart.cudaEventCreate()), cudart.cudaEventDestroy)

    def record(self, stream: Stream) -> None:
        """Put it after the work that the stream has now."""
        _checked(_cudart().cudaEventRecord(self.handle, stream.handle))

    def synchronize(self) -> None:
        """Wait until it is reached.

        Raises:
            SessionError: work before it failed.
        """
        _checked(_cudart().cudaEventSynchronize(self.handle))

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds between two events that were reached."""
        return float(_checked(_cudart().cudaEventElapsedTime(earlier.handle, self.handle)))


class HostBuffer(_Owned):
    """Pinned memory of the CPU, which the GPU copies from and to while others work.

    Attributes:
        bytes: the memory itself, uint8; not to be touched once the buffer is freed.
    """

    def __init__(self, size: int) -> None:
        cudart = _cudart()
        address = _checked(cudart.cudaMallocHost(size))
        super().__init__(address, cudart.cudaFreeHost)
        self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Its beginning as an array."""
        return self.bytes[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


class DeviceBuffer(_Owned):
    """Memory of the GPU."""

    def __init__(self, size: int) -> None:
        cudart = _cudart()
        super().__init__(_checked(cudart.cudaMalloc(size)), cudart.cudaFree)

    def __int__(self) -> int:
        """Its address."""
        return int(self.handle)

    def upload(self, host: HostBuffer, size: int, stream: Stream) -> None:
        """Copy the first `size` bytes from the CPU, when the stream comes to it."""
        cudart = _cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _checked(cudart.cudaMemcpyAsync(self.handle, host.handle, size, kind, stream.handle))

    def download(self, host: HostBuffer, size: int, stream: Stream) -> None:
        """Copy the first `size` bytes to the CPU, when the stream comes to it."""
        cudart = _cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _checked(cudart.cudaMemcpyAsync(host.handle, self.handle, size, kind, stream.handle))


class Graph(_Owned):
    """Work that was captured, and is launched at once."""

    def __init__(self, handle: Any) -> None:
        super().__init__(handle, _cudart().cudaGraphExecDestroy)

    def launch(self, stream: Stream) -> None:
        """Do the work again, at the same addresses."""
        _checked(_cudart().cudaGraphLaunch(self.handle, stream.handle))


def capture(stream: Stream, enqueue: Callable[[], bool]) -> Graph | None:
    """What `enqueue` puts on a stream, which is not done yet.

    Args:
        enqueue: returns whether it could.

    Returns:
        None where it holds something that cannot be captured, such as a loop.
    """
    cudart = _cudart()
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    _checked(cudart.cudaStreamBeginCapture(stream.handle, mode))
    try:
        enqueued = enqueue()
    finally:  # or the stream could do nothing else
        error, graph = cudart.cudaStreamEndCapture(stream.handle)
    if error != cudart.cudaError_t.cudaSuccess:
        cudart.cudaGetLastError()  # takes it away, or it would be that of the next call
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
    """What a call returned, without its error."""
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
        return "this machine has no NVIDIA driver, and so no GPU to run on"
    return (
        f"the driver supports CUDA {supported}, and cuda-python is that of {runtime_version()}: "
        "update the driver, or install the cuda-python of its version"
    )


def _version(number: int) -> str | None:
    """12060 is 12.6; 0 is none."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None
