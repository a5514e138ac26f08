"""ONNX graphs in float64: a tolerance for float32 would hide a mistake in a fold.

ONNX Runtime has no float64 convolution, so onnx's reference evaluator runs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def promote(function: onnx.FunctionProto) -> None:
    """Let a modulator's body compute in float64: its casts, and its float constants."""
    for node in list(function.node):
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.DOUBLE
        if node.op_type == "Constant" and node.attribute[0].name == "value_float":
            index = list(function.node).index(node)
            name = node.output[0]
            node.output[0] = f"{name}_single"
            cast = helper.make_node("Cast", [f"{name}_single"], [name], to=TensorProto.DOUBLE)
            function.node.insert(index + 1, cast)


def promote_scalars(model: ir.Model) -> None:
    """Python numbers come out of the exporter as float32; give them their digits back."""
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            assert value.const_value is not None
            single = value.const_value.numpy()
            assert single.shape == ()
            value.const_value = ir.tensor(np.float64(str(single)), name=value.name)
            value.dtype = ir.DataType.DOUBLE


def run_double(model: ir.Model, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Run a float64 graph, the statistics of its modulators in float64 too."""
    proto: onnx.ModelProto = ir.to_proto(model)
    for function in proto.functions:
        promote(function)
    outputs: list[Any] = list(ReferenceEvaluator(proto).run(None, feed))
    assert all(output.dtype == np.float64 for output in outputs)
    return outputs


def relative_error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest error as a share of the expected peak."""
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    return float(np.abs(found - expected).max() / np.abs(expected).max())
