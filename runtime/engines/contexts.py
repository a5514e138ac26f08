"""Where the execution contexts of an engine come from, and what they share."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from adadm.runtime.engines import cuda_runtime
from adadm.runtime.engines.tensorrt_api import Flavour
from adadm.runtime.files import written_whole

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
    """The contexts that fit the TensorRT that is loaded.

    Raises:
        SessionError: there is too little memory.
    """
    if flavour == "rtx":
        cache = None if runtime_cache is None else Path(runtime_cache)
        return RtxContexts(module, engine, cuda_graphs=cuda_graphs, cache=cache)
    if cuda_graphs and hasattr(engine, "device_memory_size_v2"):  # from 10.1 on
        return SharedMemoryContexts(module, engine)
    return Contexts(engine, captured=cuda_graphs)


class Contexts:
    """Makes the contexts of one engine: one, with memory of its own.

    Before TensorRT 10 two contexts cannot be set to one profile, so that there is one graph at a
    time; and without graphs no more than one is needed.

    Attributes:
        most: how many there may be at once.
        captured: whether their work is to be captured in CUDA graphs, by who runs them.
    """

    most = 1

    def __init__(self, engine: trt.ICudaEngine, *, captured: bool) -> None:
        self._engine, self.captured = engine, captured

    def new(self) -> trt.IExecutionContext | None:
        """A context; None where TensorRT refuses."""
        return self._engine.create_execution_context()

    def close(self) -> None:
        """Free what they share, once they are gone."""
        del self._engine


class SharedMemoryContexts(Contexts):
    """Contexts whose activations lie in the same memory, as one runs at a time.

    A graph is only valid as long as the context that it was captured from is not set to other
    shapes, so each of them has a context of its own.
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

    It captures graphs itself, for each shape once the kernels of that shape are compiled. A graph
    of ours might keep the slow ones that it begins with, and is only possible for engines that were
    built for it (`IExecutionContext.is_stream_capturable`).

    Kernels for a shape are compiled before its first run (`EAGER`). `LAZY`, the default, begins
    with others while it compiles in the background: then results would depend on the time, by
    roundings, and so would what is measured.
    """

    _engine: Any  # stubs are those of TensorRT, and do not know the following

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
            content = cache.read_bytes() if cache.is_file() else b""
            if content and not compiled.deserialize(content):
                _logger.warning(
                    "%s was made for another GPU, driver or TensorRT for RTX: kernels are compiled "
                    "anew, and it is written anew",
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
    """Write a runtime cache, if it is another than was read."""
    content = bytes(compiled.serialize())
    if content and content != before:
        with written_whole(path) as partial:
            partial.write_bytes(content)
