"""A model as a device gets it: in its target's form, with modulation factors on request."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.calibration.passes import LowerToHalf
from adadm.calibration.target_forms.float16_emulation import rounded_to_half
from adadm.export.assembly import inline
from adadm.export.graph.checker import check_file
from adadm.export.graph.opset import set_opset
from adadm.export.passes import ExposeFactors
from adadm.runtime.engines.weak_typing import FLOAT32_LAYERS
from adadm.runtime.targets import Target

__all__ = ["Deployed", "deploy"]

_FACTORS = tuple(
    re.compile(pattern) for pattern in (r"typed_factor(_\d+)?|factor_\d+", r"wide_factor(_\d+)?")
)
"""Of an inlined modulator and of an exposed one; the second where all is float32, simplified."""


@dataclass(frozen=True)
class Deployed:
    """A model for a device.

    Attributes:
        model: what an engine is built from. Its factors have the names `factor_0`, `factor_1`, ...
            in it, and are no outputs: an output costs kernels and memory.
        factors_patch: appended to the serialized model, it makes outputs of them, because
            protobuf merges the fields of concatenated messages; empty without modulators.
        evaluated: the model with its factors as outputs, and what a device rounds to half
            precision rounded; computes in float32. Of a weakly typed model, whatever a builder may
            choose is rounded.
    """

    model: onnx.ModelProto
    factors_patch: bytes
    evaluated: onnx.ModelProto

    @property
    def with_factors(self) -> bytes:
        """The serialized model that returns its factors too."""
        serialized: bytes = self.model.SerializeToString()
        return serialized + self.factors_patch


def deploy(path: Path, target: Target) -> Deployed:
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
        inline(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _name_factors(model)
    evaluated = ir.to_proto(_typed(model, target))
    proto = ir.to_proto(model)
    factors = [value for value in proto.graph.output if value.name.startswith("factor_")]
    patch = onnx.ModelProto()
    patch.graph.output.extend(factors)
    for value in factors:
        proto.graph.output.remove(value)
    for value in factors:
        if value.name not in {info.name for info in proto.graph.value_info}:
            proto.graph.value_info.append(value)
    check_file(proto, model.opset_imports[""])
    return Deployed(
        model=proto,
        factors_patch=patch.SerializeToString() if factors else b"",
        evaluated=rounded_to_half(evaluated),
    )


def _name_factors(model: ir.Model) -> None:
    """Make outputs of the factors of an inlined graph, named as those of modulators are."""
    values = [value for node in model.graph for value in node.outputs]
    for pattern in _FACTORS:
        if found := [value for value in values if pattern.fullmatch(value.name or "")]:
            break
    for index, value in enumerate(found):
        value.name = f"factor_{index}"
        if not value.is_graph_output():
            model.graph.outputs.append(value)


def _typed(model: ir.Model, target: Target) -> ir.Model:
    """What is float16 written down, where a builder chooses; else the model as it is."""
    pinned = set(json.loads(model.metadata_props.get(FLOAT32_LAYERS, "[]")))
    if target.typing != "weak" or not pinned:
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
