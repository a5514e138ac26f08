"""The one place that knows `tensorrt` and `tensorrt_rtx`, which share most of their interface.

TensorRT for RTX parses and builds on a machine without a GPU, for the architectures that it is
told; TensorRT proper needs the device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from adadm.runtime.errors import EngineError, require

__all__ = ["Engine", "Flavour", "Profile", "Shape", "build_engine", "load", "parse"]

Flavour = Literal["tensorrt", "rtx"]
Shape = tuple[int, ...]

_LAYERS, _ACTIVATIONS = "Layers:", "Total Activation Memory:"
_NOTED = (_LAYERS, _ACTIVATIONS)

_MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class Profile:
    """The smallest, the usual and the largest shape of one input."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


@dataclass(frozen=True)
class Engine:
    """A serialized engine, and what its builder said of it.

    Attributes:
        plan: what a runtime loads.
        layers: kernels of one inference, after fusion; None where the builder does not list them,
            or was not asked for details.
        activation_bytes: device memory of one execution context at the largest shapes; None where
            the builder does not say.
    """

    plan: bytes
    layers: int | None
    activation_bytes: int | None


@dataclass
class ParsedNetwork:
    """A parsed model, with the objects that must live as long as it does."""

    trt: ModuleType
    builder: Any
    network: Any
    logger: Any


def load(flavour: Flavour) -> ModuleType:
    """Import TensorRT.

    Raises:
        MissingDependencyError: that flavour is not installed.
    """
    return require(_MODULES[flavour], extra=flavour)


def parse(model: bytes, flavour: Flavour) -> ParsedNetwork:
    """Parse a serialized ONNX model; the network is strongly typed from TensorRT 9 on.

    Raises:
        EngineError: the parser refuses it; the message names each node and the reason.
    """
    trt = load(flavour)
    logger = _collecting_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        problems = [parser.get_error(index) for index in range(parser.num_errors)]
        listed = "\n".join(f"  {_described(problem)}" for problem in problems)
        raise EngineError(
            f"the parser of {trt.__name__} {trt.__version__} refuses the model:\n{listed}"
        )
    return ParsedNetwork(trt, builder, network, logger)


def build_engine(
    model: bytes,
    profiles: Sequence[Mapping[str, Profile]],
    flavour: Flavour,
    compute_capabilities: Sequence[str] = (),
    detailed: bool = False,
) -> Engine:
    """Build an engine.

    Args:
        model: a serialized ONNX model.
        profiles: one optimization profile an entry: input name to shapes. May be empty when the
            inputs are static.
        detailed: put the names of all kernels into the plan, and count them.
        compute_capabilities: such as `SM89`, for TensorRT for RTX only; without, the GPU present.

    Raises:
        EngineError: parsing or building fails.
    """
    parsed = parse(model, flavour)
    trt, builder = parsed.trt, parsed.builder
    config = builder.create_builder_config()
    if detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, shape.minimum, shape.optimum, shape.maximum)
        config.add_optimization_profile(profile)
    if compute_capabilities:
        config.num_compute_capabilities = len(compute_capabilities)
        for index, name in enumerate(compute_capabilities):
            capability = getattr(trt.ComputeCapability, name, None)
            if capability is None:
                known = sorted(n for n in dir(trt.ComputeCapability) if n.startswith("SM"))
                raise EngineError(f"no compute capability {name}; known: {', '.join(known)}")
            config.set_compute_capability(capability, index)
    engine = builder.build_serialized_network(parsed.network, config)
    if engine is None:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot build the model:\n  "
            + "\n  ".join(parsed.logger.errors or ["no message"])
        )
    notes = parsed.logger.notes
    listed = next((note for note in notes if note.startswith(_LAYERS)), None)
    memory = [re.match(rf"{_ACTIVATIONS} (\d+)", note) for note in notes]
    return Engine(
        plan=bytes(engine),
        layers=listed.count("LayerType:") or None if listed else None,
        activation_bytes=next((int(found[1]) for found in memory if found), None),
    )


def _creation_flags(trt: ModuleType) -> int:
    """Strongly typed where that exists (9 and later), explicit batch where that is asked (8.x).

    Enum integers moved between 10 and 11, so they are looked up by name.
    """
    flags = trt.NetworkDefinitionCreationFlag
    names = ("STRONGLY_TYPED", "EXPLICIT_BATCH")
    chosen = next((getattr(flags, name) for name in names if hasattr(flags, name)), None)
    return 0 if chosen is None else 1 << int(chosen)


def _described(problem: Any) -> str:
    name, operator = problem.node_name(), problem.node_operator()
    return f"node {name or '(unnamed)'} ({operator or 'no operator'}): {problem.desc()}"


def _collecting_logger(trt: ModuleType) -> Any:
    class CollectingLogger(trt.ILogger):  # type: ignore[name-defined, misc]
        """Keeps errors for the exception, what `Engine` tells, and prints nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.notes: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            is_error = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            if is_error:
                self.errors.append(message)
            elif message.startswith(_NOTED):
                self.notes.append(message)

    return CollectingLogger()
