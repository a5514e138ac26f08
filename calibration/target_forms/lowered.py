"""A lowered graph in the form that a target reads, and in the form in which its quality is seen."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.calibration.passes import LowerToHalf
from adadm.calibration.target_forms.float16_emulation import rounded_to_half
from adadm.export.assembly import inline
from adadm.export.graph.channels import constant_of, label, new_initializer
from adadm.export.graph.checker import check_file
from adadm.export.graph.opset import set_opset
from adadm.export.passes import BakeImageIO
from adadm.runtime.engines.weak_typing import FLOAT32_LAYERS
from adadm.runtime.errors import CalibrationError
from adadm.runtime.targets import Target

__all__ = ["Form", "check_half", "in_target_form"]

_OPSET_OF_HALF_SCALES = 19
"""The first in which QuantizeLinear and DequantizeLinear take scales in float16."""


@dataclass(frozen=True)
class Form:
    """A lowered graph for one target.

    Attributes:
        model: what is written.
        evaluated: what it computes, on a runtime without half precision: float32 in and out, with
            the outputs that the graph had. For weak typing it rounds all that is not pinned, which
            is the most that a builder may choose.
        pinned: nodes of `model` that must stay float32 where the builder chooses, in graph order:
            for `--layerPrecisions=NAME:fp32`. Empty but for weak typing in half precision.
    """

    model: onnx.ModelProto
    evaluated: onnx.ModelProto
    pinned: list[str]


def in_target_form(
    model: ir.Model,
    target: Target,
    half: bool,
    wide: Collection[str],
    io: Literal["float32", "uint8"],
    rgb_range: float,
) -> Form:
    """Bring a finished float32 graph, which is left as it is, into the form of a target.

    Args:
        model: in function form, with Q/DQ in float32 or without.
        half: lower what is not quantized to float16.
        wide: values that stay float32, as `LowerToHalf` takes them.
        io: of the model that is written.
        rgb_range: the value of white.

    Raises:
        CalibrationError: the target does not compute in half precision.
        ExportError: the graph cannot be lowered, an operator changed between its opset and that of
            the target, or a check of the file fails.
    """
    if half:
        check_half(target)
    typed = model.clone()
    if half:
        set_opset(typed, _OPSET_OF_HALF_SCALES)
        LowerToHalf(wide)(typed)
    evaluated = ir.to_proto(typed)
    weak = target.typing == "weak"
    written = model.clone() if weak else typed
    set_opset(written, target.opset)
    if not target.int8_constants:
        _quantize_constants_in_graph(written)
    _finish(written, target, io, rgb_range)
    pinned = []
    if half and weak:
        _finish(typed, target, io, rgb_range)
        common.ShapeInferencePass()(typed)
        float32 = {
            node.name for node in typed.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT
        }
        pinned = [str(node.name) for node in written.graph if node.name in float32]
        written.metadata_props[FLOAT32_LAYERS] = json.dumps(pinned)
    proto: onnx.ModelProto = ir.to_proto(written)
    check_file(proto, target.opset)
    return Form(proto, rounded_to_half(evaluated) if half else evaluated, pinned)


def check_half(target: Target) -> None:
    """Refuse to lower to float16 for a target that does not compute in it.

    Raises:
        CalibrationError: it does not.
    """
    if target.typing == "float32":
        raise CalibrationError(
            f"float16 gains nothing on {target.name}: its kernels compute in float32 and convert "
            "on the way. Deploy the float32 export, or choose --precision int8"
        )


def _finish(
    model: ir.Model, target: Target, io: Literal["float32", "uint8"], rgb_range: float
) -> None:
    """Inline, and take images, where asked; graphs that differ in their types get equal names."""
    if not target.functions:
        inline(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    if io == "uint8":
        BakeImageIO(rgb_range)(model)
        model.metadata_props["adadm.io"] = "uint8"


def _quantize_constants_in_graph(model: ir.Model) -> None:
    """Let float32 constants through QuantizeLinear take the place of INT8 ones.

    Exact when: the scales are positive. `q * scale` in float32 is off by 2**-24 of it, so that
    divided by `scale` it rounds to the same `q`.
    """
    for node in list(model.graph):
        levels = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if levels is None or levels.dtype != ir.DataType.INT8 or not levels.is_initializer():
            continue
        exact, scale = constant_of(levels), constant_of(node.inputs[1])
        assert exact is not None and scale is not None  # initializers both
        along = [
            -1 if axis == node.attributes.get_int("axis", 1) else 1 for axis in range(exact.ndim)
        ]
        values = exact * (scale.reshape(along) if scale.ndim else scale)
        name = f"{label(node)}.levels"
        constant = new_initializer(model.graph, f"{name}.float32", values, ir.DataType.FLOAT)
        quantize = ir.node(
            "QuantizeLinear", [constant, *node.inputs[1:]], node.attributes, name=name
        )
        result = quantize.outputs[0]
        result.name, result.dtype, result.shape = name, levels.dtype, levels.shape
        model.graph.insert_before(node, quantize)
        node.replace_input_with(0, result)
    common.RemoveUnusedNodesPass()(model)
