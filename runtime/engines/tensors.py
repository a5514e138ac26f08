"""Inputs and outputs of an engine, and the shapes that its profiles allow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from adadm.runtime.engines.tensorrt_api import Profile, Profiles, Shape
from adadm.runtime.errors import SessionError
from adadm.runtime.models.tensor_spec import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

# By name, because `trt.nptype` of 8.x needs NumPy before 1.24.
_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def engine_tensors(
    module: ModuleType, engine: trt.ICudaEngine
) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of an engine.

    Raises:
        SessionError: a tensor has a data type that NumPy lacks, or is read on the CPU, as shapes
            are.
    """
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(_spec(module, engine, name))
    return inputs, outputs


def engine_profiles(
    engine: trt.ICudaEngine, inputs: list[TensorSpec]
) -> tuple[dict[str, Profile], ...]:
    """Optimization profiles of an engine: shapes by input name."""
    return tuple(
        {spec.name: _profile(engine, spec, index) for spec in inputs}
        for index in range(engine.num_optimization_profiles)
    )


def choose_profile(profiles: Profiles, shapes: Mapping[str, Shape]) -> int:
    """Index of the profile with the smallest usual shapes, of those that allow `shapes`.

    Raises:
        SessionError: no profile allows the shapes.
    """
    holding = [
        index
        for index, profile in enumerate(profiles)
        if all(_holds(profile[name], shape) for name, shape in shapes.items())
    ]
    if not holding:
        raise SessionError(
            f"{_listed(shapes)} is outside every profile of the engine:\n"
            + "\n".join(
                f"  {index}: {_listed({n: p.minimum for n, p in profile.items()})} to "
                f"{_listed({n: p.maximum for n, p in profile.items()})}"
                for index, profile in enumerate(profiles)
            )
            + "\n  Build an engine for it (adadm build --min --opt --max), or run the image in "
            "tiles: adadm upscale --tile"
        )
    return min(
        holding, key=lambda i: sum(math.prod(profile.optimum) for profile in profiles[i].values())
    )


def _holds(profile: Profile, shape: Shape) -> bool:
    return len(shape) == len(profile.minimum) and all(
        least <= length <= most
        for least, length, most in zip(profile.minimum, shape, profile.maximum, strict=True)
    )


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _spec(module: ModuleType, engine: trt.ICudaEngine, name: str) -> TensorSpec:
    dtype = engine.get_tensor_dtype(name).name
    if dtype not in _DTYPES or engine.get_tensor_location(name) != module.TensorLocation.DEVICE:
        raise SessionError(
            f"{name}: expected one of {', '.join(_DTYPES)} on the DEVICE, got {dtype} on the "
            f"{engine.get_tensor_location(name).name}; such an engine cannot be run here"
        )
    lengths = tuple(None if n < 0 else n for n in engine.get_tensor_shape(name)[:])
    return TensorSpec(name, lengths, np.dtype(_DTYPES[dtype]))


def _profile(engine: trt.ICudaEngine, spec: TensorSpec, index: int) -> Profile:
    fixed = tuple(length for length in spec.shape if isinstance(length, int))
    if len(fixed) == len(spec.shape):  # TensorRT has no profile for it
        return Profile(fixed, fixed, fixed)
    minimum, optimum, maximum = engine.get_tensor_profile_shape(spec.name, index)
    return Profile(minimum[:], optimum[:], maximum[:])
