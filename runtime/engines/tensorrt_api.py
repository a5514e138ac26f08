"""The one place that uses `tensorrt` and `tensorrt_rtx`, which share most of their interface.

TensorRT for RTX parses and builds on a machine without a GPU, for given architectures; TensorRT
proper needs the device.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from adadm.runtime.engines.build_monitor import (
    ERRORS,
    Message,
    make_logger,
    make_monitor,
    run_stoppable,
)
from adadm.runtime.engines.weak_typing import WeakTyping
from adadm.runtime.errors import EngineError, require
from adadm.runtime.models.graph_check import check_well_formed
from adadm.runtime.models.onnx_reader import checked_onnx
from adadm.runtime.progress import SILENT, Progress

Flavour = Literal["tensorrt", "rtx"]
Shape = tuple[int, ...]

_MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class Profile:
    """Smallest, usual and largest shape of one input."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


Profiles = Sequence[Mapping[str, Profile]]
"""Optimization profiles: shapes by input name. Empty for inputs of fixed sizes."""


@dataclass(frozen=True)
class Settings:
    """Settings of a build. TensorFloat-32, which keeps 11 bits of a factor, is always off.

    Attributes:
        compute_capabilities: GPUs to build for, such as `SM89`; TensorRT for RTX only. Empty for
            the GPU here.
        weak_typing: types that the builder may choose; None for strong typing.
        workspace_bytes: limit of the builder's scratch memory; None leaves it to TensorRT.
        detailed: put the names of all kernels into the plan, and count them.
    """

    compute_capabilities: tuple[str, ...] = ()
    weak_typing: WeakTyping | None = None
    workspace_bytes: int | None = None
    detailed: bool = False


DEFAULTS = Settings()


@dataclass(frozen=True)
class Engine:
    """A serialized engine, and figures that its builder reported.

    Attributes:
        plan: the engine that a runtime loads.
        layers: number of kernels of one inference, after fusion; None without `detailed`, or if
            the builder does not list them.
        activation_bytes: device memory of one execution context at the largest shapes, by
            profile; empty if not reported.
        timing_cache: kernel timings for the next build; None if there are none.
    """

    plan: bytes
    layers: int | None
    activation_bytes: tuple[int, ...]
    timing_cache: bytes | None


@dataclass
class ParsedNetwork:
    """A parsed model, with the objects that must live as long as it does."""

    trt: ModuleType
    builder: Any
    network: Any


def load_tensorrt(flavour: Flavour) -> ModuleType:
    """Import TensorRT.

    Raises:
        MissingDependencyError: the flavour is not installed.
    """
    return require(_MODULES[flavour], extra=flavour)


def parse(
    model: bytes, flavour: Flavour, *, weak: bool = False, log: list[Message] | None = None
) -> ParsedNetwork:
    """Parse a serialized ONNX model.

    Args:
        weak: let the builder choose types. Else the types of the graph hold, if TensorRT has
            strong typing (9 and later).
        log: receives the messages.

    Raises:
        EngineError: `checked_onnx`, the ONNX checker or the parser refuses the model; the parser's
            message names each node and the reason.
    """
    trt = load_tensorrt(flavour)
    content = checked_onnx(model)
    try:
        check_well_formed(content, flavour)
    except ValueError as error:
        raise EngineError(f"the ONNX checker refuses the model: {error}") from error
    logger = make_logger(trt, ([] if log is None else log).append)
    builder = trt.Builder(logger)
    network = builder.create_network(_creation_flags(trt, weak=weak))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        problems = [parser.get_error(index) for index in range(parser.num_errors)]
        listed = "\n".join(f"  {_described(problem)}" for problem in problems)
        raise EngineError(
            f"the parser of {trt.__name__} {trt.__version__} refuses the model:\n{listed}"
        )
    return ParsedNetwork(trt, builder, network)


def build_engine(
    model: bytes,
    profiles: Profiles,
    flavour: Flavour,
    *,
    settings: Settings = DEFAULTS,
    timing_cache: bytes | None = None,
    log: list[Message] | None = None,
    progress: Progress = SILENT,
) -> Engine:
    """Build an engine. Ctrl-C stops the builder (TensorRT 10 and later).

    Args:
        model: a serialized ONNX model.
        timing_cache: timings of an earlier build; empty to begin a cache; None for no cache.
        log: receives the messages.
        progress: receives percent and the builder's phase (TensorRT 10 and later).

    Raises:
        EngineError: parsing or building fails.
    """
    log = [] if log is None else log
    parsed = parse(model, flavour, weak=settings.weak_typing is not None, log=log)
    trt, builder = parsed.trt, parsed.builder
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if settings.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, shape.minimum, shape.optimum, shape.maximum)
        config.add_optimization_profile(profile)
    if settings.weak_typing is not None:
        settings.weak_typing.configure(trt, parsed.network, config)
    if settings.compute_capabilities:
        _set_compute_capabilities(trt, config, settings.compute_capabilities)
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise EngineError(
                "the timing cache is damaged, or from another GPU or TensorRT; delete it, or name "
                "another file"
            )

    stop = threading.Event() if hasattr(trt, "IProgressMonitor") else None
    if stop is not None:
        config.progress_monitor = make_monitor(trt, progress, stop)
    engine = run_stoppable(lambda: builder.build_serialized_network(parsed.network, config), stop)
    if engine is None:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot build the model:\n  "
            + "\n  ".join([said for severity, said in log if severity in ERRORS] or ["no message"])
        )
    listed = next((note for _, note in log if note.startswith("Layers:")), None)
    memory = [re.match(r"Total Activation Memory: (\d+)", note) for _, note in log]
    timed = config.get_timing_cache() if timing_cache is not None else None
    return Engine(
        plan=bytes(engine),
        layers=listed.count("LayerType:") or None if listed else None,
        activation_bytes=tuple(int(match[1]) for match in memory if match),
        timing_cache=bytes(timed.serialize()) if timed else None,
    )


def _set_compute_capabilities(trt: ModuleType, config: Any, names: Sequence[str]) -> None:
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        capability = getattr(trt.ComputeCapability, name, None)
        if capability is None:
            known = sorted(n for n in dir(trt.ComputeCapability) if n.startswith("SM"))
            raise EngineError(f"expected compute capability {', '.join(known)}, got {name}")
        config.set_compute_capability(capability, index)


def _creation_flags(trt: ModuleType, *, weak: bool) -> int:
    """Flags of a network: strongly typed if possible (9 and later), else explicit batch (8.x).

    Enum values changed between 10 and 11, so they are looked up by name.
    """
    flags = trt.NetworkDefinitionCreationFlag
    names = ("EXPLICIT_BATCH",) if weak else ("STRONGLY_TYPED", "EXPLICIT_BATCH")
    chosen = next((getattr(flags, name) for name in names if hasattr(flags, name)), None)
    return 0 if chosen is None else 1 << int(chosen)


def _described(problem: Any) -> str:
    if not hasattr(problem, "node_name"):  # 8.x
        return f"node {problem.node()} of the graph: {problem.desc()}"
    name, operator = problem.node_name(), problem.node_operator()
    return f"node {name or '(unnamed)'} ({operator or 'no operator'}): {problem.desc()}"
