"""Checks that every ONNX file passes before it is written."""

from __future__ import annotations

import onnx

from adadm.runtime.errors import ExportError


def check_file(proto: onnx.ModelProto, opset: int) -> None:
    """Run the ONNX checker and strict shape inference, and check the opset of the file.

    Raises:
        ExportError: a check fails.
    """
    try:
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX checker refuses the exported model: {error}") from error
    opsets = {entry.version for entry in proto.opset_import if not entry.domain}
    for function in proto.functions:
        opsets |= {entry.version for entry in function.opset_import if not entry.domain}
    if opsets != {opset}:
        raise ExportError(f"expected opset {opset}, got {sorted(opsets)}")
