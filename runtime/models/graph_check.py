"""The ONNX checker, before what hangs or crashes on a graph that it refuses.

OpenVINO follows nodes that are out of order in circles, and reads inputs that a node lacks.
TensorRT's parser crashes on a node without outputs, on functions that call themselves, and on
attributes out of bounds. ONNX Runtime has checks of its own. The checker itself crashes on negative
sizes.
"""

from __future__ import annotations

from typing import Any

from adadm.runtime.errors import require
from adadm.runtime.models.onnx_reader import has_negative_sizes


def check_well_formed(content: bytes, extra: str) -> None:
    """Run the ONNX checker and its inference of shapes on a model that `checked_onnx` returned.

    Args:
        extra: the extra that brings the onnx package.

    Raises:
        MissingDependencyError: onnx is not installed.
        ValueError: the checker refuses the model, or a shape in it has a negative size.
    """
    checker: Any = require("onnx.checker", extra)
    inference: Any = require("onnx.shape_inference", extra)
    if has_negative_sizes(content):
        raise ValueError("a shape has a negative size; expected 1 or more, or a name if it is free")
    try:
        checker.check_model(content, full_check=True)
    except (checker.ValidationError, inference.InferenceError, RuntimeError) as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error
