"""Emulate half precision on a runtime that does not compute in it.

ONNX Runtime's CPU kernels compute float16 in float32 and skip the rounding between nodes:
50000 * 4 / 4 gives 50000, where hardware that computes in half precision returns infinity.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.calibration.passes.lower_to_half import MOVES
from adadm.export.graph.rewriting import producer_of

_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT


def rounded_to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a typed graph to float32 with explicit rounding of all its float16 values.

    Functions are inlined first, so that tensors in their bodies count too. Each node computes in
    float32, as kernels for half precision accumulate. A pair of Casts, which ONNX Runtime keeps at
    every optimization level, rounds its result; from 65520 on it is infinite. A ReLU is part of the
    convolution before it, as in every engine: rounding before or after it is the same. Float32
    values of the typed graph are not rounded. Inputs and outputs of the graph become float32.
    """
    typed: ir.Model = ir.from_proto(model)
    common.InlinePass()(typed)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(typed)
    common.ShapeInferencePass()(typed)
    graph = typed.graph
    for node in list(graph):
        for value in node.outputs:
            if value.dtype == _HALF:
                _widen(value)
                if node.op_type not in MOVES and not _goes_into_relu(value):
                    _round(graph, value)
        if node.op_type == "Cast" and node.attributes.get_int("to") == _HALF:
            node.attributes["to"] = ir.AttrInt64("to", _SINGLE.value)
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.dtype == _HALF:
            _widen(value)
    rounded: onnx.ModelProto = ir.to_proto(typed)
    return rounded


def _widen(value: ir.Value) -> None:
    value.dtype = _SINGLE
    if (tensor := value.const_value) is not None:
        value.const_value = ir.tensor(tensor.numpy().astype(_SINGLE.numpy()), name=value.name)


def _goes_into_relu(value: ir.Value) -> bool:
    return not value.is_graph_output() and [n.op_type for n in value.consumers()] == ["Relu"]


def _round(graph: ir.Graph, value: ir.Value) -> None:
    """Round a float32 value to half precision for all its readers and as graph output."""
    node = producer_of(value)
    nodes = []
    rounded = value
    for dtype in (_HALF, _SINGLE):
        cast = ir.node("Cast", [rounded], {"to": dtype.value}, name=f"{value.name}.{dtype}")
        rounded = cast.outputs[0]
        rounded.name, rounded.dtype, rounded.shape = cast.name, dtype, value.shape
        nodes.append(cast)
    readers = [(n, i) for n, i in value.uses() if n is not nodes[0]]
    for reader, index in readers:
        reader.replace_input_with(index, rounded)
    if value.is_graph_output():
        graph.outputs[graph.outputs.index(value)] = rounded
        value.name, rounded.name = f"{value.name}.unrounded", value.name
    graph.insert_after(node, nodes)
