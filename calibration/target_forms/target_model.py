"""A model in the form that a target reads, and in the form in which its quality is seen."""

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
from adadm.export.graph.checker import check_file
from adadm.export.graph.opset import set_opset
from adadm.export.operators.modulator import find_inlined
from adadm.export.passes import BakeImageIO, ExposeFactors, InlineFunctions
from adadm.runtime.errors import CalibrationError
from adadm.runtime.targets import Target

_OPSET_OF_HALF_SCALES = 19
"""The first in which QuantizeLinear and DequantizeLinear take scales in float16."""


@dataclass(frozen=True)
class TargetModel:
    """A model for one target.

    Attributes:
        model: what is written, and what an engine is built from.
        evaluated: what it computes, on a runtime without half precision: float32 inside, and what
            a device rounds to half precision rounded. For weak typing that is all that is not
            pinned, the most that a builder may choose.
        float32_layers: nodes of `model` that must stay float32 where the builder chooses, in graph
            order. Empty but for weak typing in half precision.
        factors_patch: appended to the serialized model, it makes outputs of its modulation factors
            `factor_0`, `factor_1`, ..., because protobuf merges the fields of concatenated
            messages: an output costs kernels and memory. `deploy` alone makes it; empty without
            modulators.
    """

    model: onnx.ModelProto
    evaluated: onnx.ModelProto
    float32_layers: tuple[str, ...] = ()
    factors_patch: bytes = b""

    @property
    def with_factors(self) -> bytes:
        """The serialized model that returns its factors too."""
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
    """Bring a finished float32 graph, which is left as it is, into the form of a target.

    Args:
        model: in function form, with Q/DQ in float32 or without.
        half: lower what is not quantized to float16.
        rgb_range: the value of white.
        wide: values that stay float32, as `LowerToHalf` takes them.
        io: of the model that is written; `evaluated` has the inputs and outputs of the graph.

    Raises:
        CalibrationError: the target does not compute in half precision.
        ExportError: the graph cannot be lowered, an operator changed between its opset and that of
            the target, or a check of the file fails.
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
    for graph in graphs:  # which differ in their types, and get equal names
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
        CalibrationError: it does not.
    """
    if not target.computes_half:
        raise CalibrationError(
            f"float16 gains nothing on {target.name}: its kernels compute in float32 and convert "
            "on the way. Deploy the float32 export, or choose --precision int8"
        )


def deploy(path: Path, target: Target) -> TargetModel:
    """Bring an exported or a lowered model into the form of a target, where it has another.

    Raises:
        ExportError: an operator changed between its opset and that of the target, or a check of
            the file fails.
    """
    model: ir.Model = ir.load(path)
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
    """Make outputs of the factors of an inlined graph, named as those of modulators are."""
    for index, value in enumerate(m.factor for m in find_inlined(model.graph)):
        value.name = f"factor_{index}"
        if not value.is_graph_output():
            model.graph.outputs.append(value)
