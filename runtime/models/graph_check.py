"""The ONNX checker, before what hangs or crashes on a graph that it refuses.

OpenVINO follows nodes that are out of order in circles, and reads inputs that a node lacks.
TensorRT's parser crashes on a node without outputs, on functions that call themselves, and on
attributes out of bounds. ONNX Runtime has checks of its own.
"""

from __future__ import annotations

from typing import Any

from adadm.runtime.errors import require


def check_well_formed(content: bytes, extra: str) -> None:
    """Run the ONNX checker and its inference of shapes on a model that `checked_onnx` returned.

    Args:
        extra: the extra that brings the onnx package.

    Raises:
        MissingDependencyError: onnx is not installed.
        ValueError: the checker refuses the model.
    """
    checker: Any = require("onnx.checker", extra)
    inference: Any = require("onnx.shape_inference", extra)
    try:
        checker.check_model(content, full_check=True)
    except (checker.ValidationError, inference.InferenceError, RuntimeError) as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error
