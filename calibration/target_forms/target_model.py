"""A model in the form that a target reads, and in the form that its quality is measured in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.calibration.passes import LowerToHalf
from adadm.calibration.target_forms.float16_emulation import rounded_to_half
from adadm.calibration.target_forms.weak_graph import (
    pin_float32_layers,
    quantize_constants_in_graph,
    typed_as_pinned,
)
from adadm.export.graph.checker import check_file, read_model
from adadm.export.graph.opset import set_opset
from adadm.export.operators.modulator import find_inlined
from adadm.export.passes import BakeImageIO, ExposeFactors, InlineFunctions
from adadm.runtime.errors import CalibrationError
from adadm.runtime.targets import Target

_OPSET_OF_HALF_SCALES = 19
"""First opset in which QuantizeLinear and DequantizeLinear accept float16 scales."""


@dataclass(frozen=True)
class TargetModel:
    """A model for one target.

    Attributes:
        model: the model to write, and to build an engine from.
        evaluated: the same computation for a runtime without half precision: in float32, with the
            device's rounding to half precision. With weak typing all layers that are not pinned are
            rounded, the most that a builder may choose.
        float32_layers: nodes of `model` that the builder must keep in float32, in graph order.
            Empty except for weak typing in half precision.
        factors_patch: bytes that, appended to the serialized model, make its modulation factors
            outputs `factor_0`, `factor_1`, ..., since protobuf merges the fields of concatenated
            messages. `model` itself lacks them: an output costs kernels and memory. Set only by
            `deploy`; empty without modulators.
    """

    model: onnx.ModelProto
    evaluated: onnx.ModelProto
    float32_layers: tuple[str, ...] = ()
    factors_patch: bytes = b""

    @property
    def with_factors(self) -> bytes:
        """Serialized model that also returns its factors."""
        serialized: bytes = self.model.SerializeToString()
        return serialized + self.factors_patch


def in_target_form(
    model: ir.Model,
    target: Target,
    *,
    half: bool,
    rgb_range: float,
    wide: Collection[str] = (),
    io: Literal["float32", "uint8"] = "float32",
) -> TargetModel:
    """Convert a finished float32 graph to the form of a target; the graph itself is not changed.

    Args:
        model: graph with functions, with or without Q/DQ in float32.
        half: lower values that are not quantized to float16.
        rgb_range: value of white.
        wide: values that stay float32, as in `LowerToHalf`.
        io: image type of the written model; `evaluated` has the inputs and outputs of the graph.

    Raises:
        CalibrationError: `half`, and the target does not compute in half precision.
        ExportError: the graph cannot be lowered, an operator changed between its opset and that of
            the target, or the ONNX checker refuses the model.
    """
    typed = model.clone()
    if half:
        check_half(target)
        set_opset(typed, _OPSET_OF_HALF_SCALES)
        LowerToHalf(wide)(typed)
    evaluated = ir.to_proto(typed)
    written = model.clone() if target.is_weakly_typed else typed
    set_opset(written, target.opset)
    if not target.int8_constants:
        quantize_constants_in_graph(written)
    graphs = [written] if written is typed or not half else [written, typed]
    for graph in graphs:  # they differ only in types, so that new nodes get equal names
        if not target.functions:
            _inline(graph)
        if io == "uint8":
            BakeImageIO(rgb_range)(graph)
    pinned = pin_float32_layers(written, typed) if len(graphs) > 1 else ()
    proto: onnx.ModelProto = ir.to_proto(written)
    check_file(proto, target.opset)
    return TargetModel(proto, rounded_to_half(evaluated) if half else evaluated, pinned)


def check_half(target: Target) -> None:
    """Refuse to lower to float16 for a target that does not compute in it.

    Raises:
        CalibrationError: the target does not compute in half precision.
    """
    if not target.computes_half:
        raise CalibrationError(
            f"float16 gains nothing on {target.name}: its kernels compute in float32 and convert "
            "on the way. Deploy the float32 export, or choose --precision int8"
        )


def deploy(source: Path | bytes, target: Target) -> TargetModel:
    """Convert an exported or a lowered model to the form of a target, if it has another.

    Args:
        source: path or content of the model.

    Raises:
        EngineError: the file cannot be read, or is not a model that is safe to load.
        ExportError: an operator changed between its opset and that of the target, or the ONNX
            checker refuses the model.
    """
    model = read_model(source)
    ExposeFactors()(model)
    if model.opset_imports[""] > target.opset:
        set_opset(model, target.opset)
    if model.functions and not target.functions:
        _inline(model)
    _name_factors(model)
    evaluated = ir.to_proto(typed_as_pinned(model) if target.is_weakly_typed else model)
    proto = ir.to_proto(model)
    factors = [value for value in proto.graph.output if value.name.startswith("factor_")]
    patch = onnx.ModelProto()
    patch.graph.output.extend(factors)
    for value in factors:
        proto.graph.output.remove(value)
        if value.name not in {info.name for info in proto.graph.value_info}:
            proto.graph.value_info.append(value)
    check_file(proto, model.opset_imports[""])
    factors_patch = patch.SerializeToString() if factors else b""
    return TargetModel(proto, rounded_to_half(evaluated), factors_patch=factors_patch)


def _inline(model: ir.Model) -> None:
    InlineFunctions()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _name_factors(model: ir.Model) -> None:
    """Make the factors of an inlined graph outputs, with the names of a modulator's factors."""
    for index, value in enumerate(m.factor for m in find_inlined(model.graph)):
        value.name = f"factor_{index}"
        if not value.is_graph_output():
            model.graph.outputs.append(value)
