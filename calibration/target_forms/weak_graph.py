"""Graphs for TensorRT 8.x: float32 types, with a list of the layers that must stay float32.

`adadm.runtime.engines.weak_typing` passes the list to the builder.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.calibration.passes import LowerToHalf
from adadm.export.graph.rewriting import constant_values, label, new_initializer
from adadm.runtime.models.metadata import ModelMetadata


def pin_float32_layers(written: ir.Model, typed: ir.Model) -> tuple[str, ...]:
    """Record in the metadata the nodes, in graph order, that are float32 in the typed graph."""
    common.ShapeInferencePass()(typed)
    float32 = {
        node.name for node in typed.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT
    }
    pinned = tuple(str(node.name) for node in written.graph if node.name in float32)
    written.metadata_props.update(ModelMetadata(float32_layers=list(pinned)).to_props())
    return pinned


def typed_as_pinned(model: ir.Model) -> ir.Model:
    """Lower a graph to float16 except for its pinned layers; unchanged if none is pinned."""
    pinned = ModelMetadata.from_props(model.metadata_props).float32_layers
    if not pinned:
        return model
    typed = model.clone()
    common.ShapeInferencePass()(typed)
    wide = {
        value.name or ""
        for node in typed.graph
        if node.name in pinned
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT
    }
    LowerToHalf(wide)(typed)
    return typed


def quantize_constants_in_graph(model: ir.Model) -> None:
    """Replace INT8 constants by float32 constants with a QuantizeLinear.

    Exact when: the scales are positive. `q * scale` in float32 has a relative error of 2**-24, so
    that divided by `scale` it rounds to the same `q`.
    """
    for node in list(model.graph):
        levels = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if levels is None or levels.dtype != ir.DataType.INT8 or not levels.is_initializer():
            continue
        exact, scale = constant_values(levels), constant_values(node.inputs[1])
        along = [
            -1 if axis == node.attributes.get_int("axis", 1) else 1 for axis in range(exact.ndim)
        ]
        values = exact * (scale.reshape(along) if scale.ndim else scale)
        name = f"{label(node)}.levels"
        constant = new_initializer(model.graph, f"{name}.float32", values, ir.DataType.FLOAT)
        quantize = ir.node(
            "QuantizeLinear", [constant, *node.inputs[1:]], node.attributes, name=name
        )
        quantized = quantize.outputs[0]
        quantized.name, quantized.dtype, quantized.shape = name, levels.dtype, levels.shape
        model.graph.insert_before(node, quantize)
        node.replace_input_with(0, quantized)
    common.RemoveUnusedNodesPass()(model)
