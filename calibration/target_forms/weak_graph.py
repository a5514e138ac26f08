"""What a graph must be for TensorRT 8.x: float32 written down, with a list of what must stay it.

How the builder is told is in `adadm.runtime.engines.weak_typing`.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.calibration.passes import LowerToHalf
from adadm.export.graph.rewriting import constant_values, label, new_initializer
from adadm.runtime.models.metadata import ModelMetadata


def pin_float32_layers(written: ir.Model, typed: ir.Model) -> tuple[str, ...]:
    """Note in the metadata which nodes are float32 in the same graph with types, in graph order."""
    common.ShapeInferencePass()(typed)
    float32 = {
        node.name for node in typed.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT
    }
    pinned = tuple(str(node.name) for node in written.graph if node.name in float32)
    written.metadata_props.update(ModelMetadata(float32_layers=list(pinned)).to_props())
    return pinned


def typed_as_pinned(model: ir.Model) -> ir.Model:
    """The same graph in float16, but for what is pinned; as it is where nothing is."""
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
    """Let float32 constants through QuantizeLinear take the place of INT8 ones.

    Exact when: the scales are positive. `q * scale` in float32 is off by 2**-24 of it, so that
    divided by `scale` it rounds to the same `q`.
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
