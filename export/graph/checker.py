"""Checks that every ONNX file passes before it is used or written."""

from __future__ import annotations

import os

import onnx
import onnx_ir as ir

from adadm.runtime.errors import EngineError, ExportError
from adadm.runtime.models.graph_check import check_well_formed
from adadm.runtime.models.onnx_reader import checked_onnx
from adadm.runtime.sessions.session import reason_of


def read_model(source: str | os.PathLike[str] | bytes) -> ir.Model:
    """Read a model that `checked_onnx` and the ONNX checker accept, with shapes that agree.

    Args:
        source: path or content of the model.

    Raises:
        EngineError: the file cannot be read, or is not a model that is safe to load, or the ONNX
            checker refuses it.
    """
    content = checked_onnx(source)
    name = "the model" if isinstance(source, bytes) else os.fspath(source)
    try:
        check_well_formed(content, "export")
        model: ir.Model = ir.from_proto(onnx.load_from_string(content))
    except Exception as error:  # those of protobuf, onnx and onnx_ir share no narrower class
        raise EngineError(
            f"{name} cannot be read as ONNX: {reason_of(error)}; copy or export it again"
        ) from error
    return model


def check_graph(model: ir.Model) -> None:
    """Run the ONNX checker on a model without its weights, which may lie in other files.

    Raises:
        ExportError: the checker refuses the graph.
    """
    try:
        bare = model.clone()
        for graph in bare.graphs():
            for value in list(graph.initializers.values()):
                value.const_value = None
                del graph.initializers[value.name or ""]
                if not value.is_graph_input():
                    graph.inputs.append(value)
        onnx.checker.check_model(ir.to_proto(bare))
    except Exception as error:  # as above
        raise ExportError(f"the ONNX checker refuses the graph: {reason_of(error)}") from error


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
