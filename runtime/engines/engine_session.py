"""Run an engine on TensorRT or TensorRT for RTX."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from adadm.runtime.engines import cuda_runtime
from adadm.runtime.engines.build_monitor import ERRORS, Message, make_logger
from adadm.runtime.engines.contexts import make_contexts
from adadm.runtime.engines.manifest import check_runs_here, read_engine
from adadm.runtime.engines.tensorrt_api import Flavour, Profile, Shape, load_tensorrt
from adadm.runtime.engines.tensors import choose_profile, engine_profiles, engine_tensors
from adadm.runtime.errors import SessionError
from adadm.runtime.sessions.session import FloatArray, Session, SizeRange

if TYPE_CHECKING:
    import tensorrt as trt

_logger = logging.getLogger(__name__)
_WARM_UP = 3  # a plain run, the run that captures, and the first run of the graph


class TensorRTSession(Session):
    """An engine with its manifest, loaded onto the GPU.

    Buffers for the largest shapes of a profile are made on its first use, on the GPU and pinned on
    the CPU. From the second run of the same shapes on, the work is a CUDA graph.

    Args:
        engine: file that `adadm build` wrote.
        trust: load an engine even without a manifest. An engine can run any code.
        runtime_cache: file in which TensorRT for RTX keeps the kernels that it compiles at run
            time, for later sessions. TensorRT compiles them when it builds.
        flavour: flavour of an engine without a manifest.
        cuda_graphs: use CUDA graphs.

    Attributes:
        profiles: optimization profiles: shapes by input name.

    Raises:
        EngineError: the file does not match its manifest, or was built for another machine.
        MissingDependencyError: that flavour of TensorRT, or cuda-bindings, is not installed.
        SessionError: there is no GPU, too little memory, or TensorRT cannot load the engine.
    """

    profiles: tuple[dict[str, Profile], ...]

    def __init__(
        self,
        engine: str | os.PathLike[str],
        *,
        trust: bool = False,
        runtime_cache: str | os.PathLike[str] | None = None,
        flavour: Flavour = "tensorrt",
        cuda_graphs: bool = True,
    ) -> None:
        self._path = Path(engine)
        plan, manifest = read_engine(self._path, trust=trust)
        flavour = flavour if manifest is None else manifest.flavour
        module = load_tensorrt(flavour)
        if manifest is not None:
            check_runs_here(
                manifest, flavour, module.__version__, cuda_runtime.compute_capability()
            )
        self._lanes: OrderedDict[tuple[Shape, ...], _Lane] = OrderedDict()
        self._buffers: dict[int, dict[str, _Buffer]] = {}
        self._errors: deque[str] = deque(maxlen=5)  # the latest messages
        self._owned = ExitStack()  # freed in reverse order
        try:
            self._stream = self._owned.enter_context(cuda_runtime.Stream())
            loaded = self._loaded(module, plan)
            self._contexts = make_contexts(
                module, loaded, flavour, cuda_graphs=cuda_graphs, runtime_cache=runtime_cache
            )
            self._owned.callback(self._contexts.close)
            inputs, outputs = engine_tensors(module, loaded)
            self._describe(inputs, outputs, manifest.metadata if manifest else {}, engine)
            self.profiles = engine_profiles(loaded, self.inputs)
        except BaseException:
            self.close()
            raise

    @property
    def sizes(self) -> list[SizeRange]:
        self._lr_shape()
        return [
            SizeRange(self._height_and_width(lr.minimum), self._height_and_width(lr.maximum))
            for lr in (profile["lr"] for profile in self.profiles)
            if lr.minimum[0] <= 1 <= lr.maximum[0]
        ]

    def _run_shared(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        lane = self._fed(feed)
        self._enqueue(lane)
        results = {}
        for spec in self.outputs:
            buffer, shape = lane.buffers[spec.name], lane.outputs[spec.name]
            results[spec.name] = buffer.host.view(shape, spec.dtype)
            buffer.device.download(buffer.host, results[spec.name].nbytes, self._stream)
        self._stream.synchronize()
        return results

    def measure(self, feed: Mapping[str, FloatArray], seconds: float) -> list[float]:
        """Time inferences in sequence, without copies, in milliseconds each.

        While one inference is timed, the next already waits on the GPU, so the times exclude the
        CPU's enqueueing. A few runs before are not timed.

        Raises:
            SessionError: as for `run`.
        """
        self._check(feed)
        lane = self._fed(feed)
        for _ in range(_WARM_UP):
            self._enqueue(lane)
            self._stream.synchronize()
        with ExitStack() as opened:
            before, after, later = (opened.enter_context(cuda_runtime.Event()) for _ in range(3))
            before.record(self._stream)
            self._enqueue(lane)
            after.record(self._stream)
            times: list[float] = []
            end = time.monotonic() + seconds
            while not times or time.monotonic() < end:
                self._enqueue(lane)
                later.record(self._stream)
                after.synchronize()
                times.append(after.ms_since(before))
                before, after, later = after, later, before
            self._stream.synchronize()
        return times

    def _run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        return {name: array.copy() for name, array in self._run_shared(feed).items()}

    def _release(self) -> None:
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
        self._owned.close()

    def _loaded(self, module: ModuleType, plan: bytes) -> trt.ICudaEngine:
        def keep(message: Message) -> None:
            if message[0] in ERRORS:
                self._errors.append(message[1])

        try:
            runtime: trt.Runtime = module.Runtime(make_logger(module, keep))
            loaded: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
        except (RuntimeError, TypeError) as error:  # pybind11's, for an object that failed
            raise self._failure(f"{module.__name__} cannot load it: {error}") from error
        if loaded is None:
            raise self._failure(f"{module.__name__} {module.__version__} cannot load it")
        return loaded

    def _fed(self, feed: Mapping[str, FloatArray]) -> _Lane:
        """Lane for the shapes of a feed, with the copies to the GPU enqueued."""
        shapes = tuple(feed[spec.name].shape for spec in self.inputs)
        lane = self._lanes.get(shapes)
        if lane is None:
            lane = self._lanes[shapes] = self._new_lane(shapes)
        self._lanes.move_to_end(shapes)
        for name, array in feed.items():
            buffer = lane.buffers[name]
            np.copyto(buffer.host.view(array.shape, array.dtype), array)
            buffer.device.upload(buffer.host, array.nbytes, self._stream)
        return lane

    def _new_lane(self, shapes: tuple[Shape, ...]) -> _Lane:
        by_name = {spec.name: shape for spec, shape in zip(self.inputs, shapes, strict=True)}
        profile = choose_profile(self.profiles, by_name)
        if len(self._lanes) < self._contexts.most:
            context = self._contexts.new()
        else:
            _, oldest = self._lanes.popitem(last=False)
            oldest.close()  # its graph is invalid for other shapes
            context = oldest.context
        if context is None:
            raise self._failure("TensorRT cannot make an execution context")
        if context.active_optimization_profile != profile and not (
            context.set_optimization_profile_async(profile, int(self._stream))
        ):
            raise self._failure(f"TensorRT cannot switch to profile {profile}")
        buffers = self._buffers_of(profile, context)
        outputs = self._set_shapes(context, by_name)
        for name, buffer in buffers.items():
            if not context.set_tensor_address(name, int(buffer.device)):
                raise self._failure(f"TensorRT refuses the buffer for {name}")
        return _Lane(context, buffers, outputs, self._contexts.captured)

    def _buffers_of(self, profile: int, context: trt.IExecutionContext) -> dict[str, _Buffer]:
        if profile not in self._buffers:
            shapes = {name: shape.maximum for name, shape in self.profiles[profile].items()}
            shapes |= self._set_shapes(context, shapes)
            with ExitStack() as opened:
                buffers = {}
                for spec in (*self.inputs, *self.outputs):
                    size = max(math.prod(shapes[spec.name]) * spec.dtype.itemsize, 1)
                    buffers[spec.name] = _Buffer(
                        opened.enter_context(cuda_runtime.HostBuffer(size)),
                        opened.enter_context(cuda_runtime.DeviceBuffer(size)),
                    )
                self._owned.enter_context(opened.pop_all())
            self._buffers[profile] = buffers
        return self._buffers[profile]

    def _set_shapes(
        self, context: trt.IExecutionContext, shapes: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """Set the shapes of the inputs; return those of the outputs."""
        for spec in self.inputs:
            if None in spec.shape and not context.set_input_shape(spec.name, shapes[spec.name]):
                raise self._failure(f"TensorRT refuses {spec.name} {shapes[spec.name]}")
        try:
            unknown = context.infer_shapes()
        except RuntimeError as error:
            raise self._failure(
                f"TensorRT cannot infer output shapes for {dict(shapes)}"
            ) from error
        if unknown:
            raise self._failure(f"TensorRT cannot infer the shapes of {', '.join(unknown)}")
        return {spec.name: context.get_tensor_shape(spec.name)[:] for spec in self.outputs}

    def _enqueue(self, lane: _Lane) -> None:
        """Enqueue an inference on the stream."""

        def plainly() -> bool:
            return bool(lane.context.execute_async_v3(int(self._stream)))

        if lane.is_captured and lane.graph is None and lane.has_run:
            # Not the first run, in which TensorRT initialises itself.
            lane.graph = cuda_runtime.capture(self._stream, plainly)
            if lane.graph is None:
                lane.is_captured = False
                _logger.debug("%s", self._failure("its work cannot be captured"))
        if lane.graph is not None:
            lane.graph.launch(self._stream)
        elif not plainly():
            raise self._failure("TensorRT cannot run it")
        lane.has_run = True

    def _failure(self, what: str) -> SessionError:
        """Make an error with the latest messages of TensorRT."""
        said = "".join(f"\n  {message}" for message in self._errors)
        self._errors.clear()
        return SessionError(f"{self._path}: {what}{said}")


@dataclass
class _Buffer:
    host: cuda_runtime.HostBuffer
    device: cuda_runtime.DeviceBuffer


@dataclass
class _Lane:
    """A context set to certain shapes, and its work for them.

    Attributes:
        outputs: output shapes by name.
        is_captured: True if the work should and can be captured.
    """

    context: trt.IExecutionContext
    buffers: dict[str, _Buffer]
    outputs: dict[str, Shape]
    is_captured: bool
    has_run: bool = False
    graph: cuda_runtime.Graph | None = None

    def close(self) -> None:
        if self.graph is not None:
            self.graph.close()
