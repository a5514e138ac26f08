"""Execution contexts of an engine, and the memory or caches that they share."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from adadm.runtime.engines import cuda_runtime
from adadm.runtime.engines.tensorrt_api import Flavour
from adadm.runtime.files import read_cache, write_cache

if TYPE_CHECKING:
    import tensorrt as trt

_logger = logging.getLogger(__name__)


def make_contexts(
    module: ModuleType,
    engine: trt.ICudaEngine,
    flavour: Flavour,
    *,
    cuda_graphs: bool,
    runtime_cache: str | os.PathLike[str] | None,
) -> Contexts:
    """Make the contexts for the loaded version of TensorRT.

    Raises:
        SessionError: there is too little memory.
    """
    if flavour == "rtx":
        cache = None if runtime_cache is None else Path(runtime_cache)
        return RtxContexts(module, engine, cuda_graphs=cuda_graphs, cache=cache)
    if cuda_graphs and hasattr(engine, "device_memory_size_v2"):  # TensorRT 10.1 or later
        return SharedMemoryContexts(module, engine)
    return Contexts(engine, captured=cuda_graphs)


class Contexts:
    """Makes the contexts of one engine: a single one, with its own memory.

    Before TensorRT 10, two contexts cannot use one profile, so there is one graph at a time.
    Without graphs, one context is enough.

    Attributes:
        most: largest number of contexts at once.
        captured: True if the caller should capture their work in CUDA graphs.
    """

    most = 1

    def __init__(self, engine: trt.ICudaEngine, *, captured: bool) -> None:
        self._engine, self.captured = engine, captured

    def new(self) -> trt.IExecutionContext | None:
        """Make a context; None if TensorRT refuses."""
        return self._engine.create_execution_context()

    def close(self) -> None:
        """Free shared resources, once the contexts are gone."""
        del self._engine


class SharedMemoryContexts(Contexts):
    """Contexts that share the memory of their activations, as one runs at a time.

    A graph is valid only while its context keeps the shapes of the capture, so each graph has its
    own context.
    """

    most = 4

    def __init__(self, module: ModuleType, engine: trt.ICudaEngine) -> None:
        super().__init__(engine, captured=True)
        self._strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
        self._size = engine.device_memory_size_v2
        self._memory = cuda_runtime.DeviceBuffer(max(self._size, 1))

    def new(self) -> trt.IExecutionContext | None:
        context = self._engine.create_execution_context(self._strategy)
        if context is not None:
            context.set_device_memory(int(self._memory), self._size)
        return context

    def close(self) -> None:
        super().close()
        self._memory.close()


class RtxContexts(Contexts):
    """One context of TensorRT for RTX, which compiles kernels when it runs.

    TensorRT for RTX captures graphs itself, for each shape once its kernels are compiled. Our own
    graph might keep the slow first kernels, and needs an engine built for it
    (`IExecutionContext.is_stream_capturable`).

    Kernels for a shape are compiled before its first run (`EAGER`). The default, `LAZY`, begins
    with other kernels while it compiles in the background: rounding of results and measured times
    would depend on the moment.
    """

    _engine: Any  # the stubs of TensorRT lack the following

    def __init__(
        self, module: ModuleType, engine: Any, *, cuda_graphs: bool, cache: Path | None
    ) -> None:
        super().__init__(engine, captured=False)
        self._config = engine.create_runtime_config()
        strategy = "WHOLE_GRAPH_CAPTURE" if cuda_graphs else "DISABLED"
        self._config.cuda_graph_strategy = getattr(module.CudaGraphStrategy, strategy)
        self._config.dynamic_shapes_kernel_specialization_strategy = (
            module.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._saves = ExitStack()
        if cache is not None:
            compiled = self._config.create_runtime_cache()
            content = read_cache(cache, "runtime", _logger.warning)
            if content and not compiled.deserialize(content):
                _logger.warning(
                    "%s was made for another GPU, driver or TensorRT for RTX; kernels are compiled "
                    "again and the file is replaced",
                    cache,
                )
            self._config.set_runtime_cache(compiled)
            self._saves.callback(_save, compiled, cache, content)

    def new(self) -> trt.IExecutionContext | None:
        context: trt.IExecutionContext | None = self._engine.create_execution_context(self._config)
        return context

    def close(self) -> None:
        try:
            self._saves.close()
        finally:
            del self._config
            super().close()


def _save(compiled: Any, path: Path, before: bytes) -> None:
    """Write a runtime cache, if it has changed since it was read."""
    content = bytes(compiled.serialize())
    if content and content != before:
        write_cache(path, content, "runtime", _logger.warning)
