"""Lower a float32 graph to half precision, with explicit types."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeGuard

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx import defs

from adadm.export.graph.rewriting import constant_values, named_node, new_initializer
from adadm.export.operators import DOMAIN
from adadm.export.operators.sparse_attention import ATTENTION_ROUND
from adadm.runtime.errors import ExportError

MOVES = frozenset(
    ("Concat", "DepthToSpace", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose")
)
"""Operators that only move values: their results need no rounding."""

_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
_EIGHT_BITS = (ir.DataType.UINT8, ir.DataType.INT8)
_ANY_TYPE = ("Cast", "Shape", "Size")
"""Operators that accept every type: no Cast is placed before them."""
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)
_FIRST_INFINITE = 65520.0
"""Smallest magnitude that rounds (to even) to 65536, beyond the largest float16."""
_FLOAT32_PARAMETERS = frozenset(
    ("bias", "center", "chosen", "inside", "known", "moments", "rotations", "scale", "std")
)
"""Float32 inputs and outputs of the `adadm` operators, whatever the type of the others."""


class LowerToHalf(ir.passes.InPlacePass):
    """Lower a float32 graph to float16, with a Cast wherever the type changes.

    Pattern: any graph in which the operators of `adadm` are still nodes: before they are inlined,
    and before `BakeImageIO`, which then converts images in float32. Inputs and outputs of the graph
    keep their types.

    Algebra: a node computes in float32 if it reads or writes a value that must stay float32, and
    in float16 otherwise. Nothing is rounded between two float32 nodes. Besides the values in
    `wide`, these stay float32:

    - inputs and outputs that are float32 by definition: `std`, `center`, `inside` and `moments` of
      the modulators, `scales` of Resize;
    - values converted from integers of more than 8 bits, and values computed from those and
      constants alone: sizes;
    - statistics: all of an attention round, and the weighting of the rounds; reductions;
      normalizations, BatchNormalization too, whose variance and epsilon are small.

    Nodes that only move values (`MOVES`) have the type of their input. Quantized values keep their
    type; their scales have the type of the data. Function bodies follow their inputs; the
    statistics of a modulator are float32 by its own casts.

    Left alone when: the graph already has float16 values.

    Args:
        wide: names of values that stay float32.

    Attributes:
        subnormal: for each constant that has some, the share of its nonzero values below 2**-14,
            where float16 loses digits; set by the last call.

    Raises:
        ExportError: a constant overflows in float16, or a name in `wide` is not a float32 value.
    """

    def __init__(self, wide: Collection[str] = ()) -> None:
        self.wide = frozenset(wide)
        self.subnormal: dict[str, float] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.ShapeInferencePass()(model)
        values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
        if any(value.dtype == _HALF for value in values):
            return ir.passes.PassResult(model, modified=False)
        if unknown := self.wide - {v.name for v in values if v.dtype == _SINGLE}:
            raise ExportError(
                f"{', '.join(sorted(unknown))} cannot stay float32: no node computes such a value"
            )
        lowering = _Lowering(model, self.wide)
        lowering.lower()
        self.subnormal = lowering.subnormal
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=True)


class _Lowering:
    """One run of the pass: the new types of values, and the Casts and constants made for them."""

    def __init__(self, model: ir.Model, wide: Collection[str]) -> None:
        self.model, self.graph = model, model.graph
        self.subnormal: dict[str, float] = {}
        self._typed: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._apart: set[ir.Value] = set()
        self._wide = {
            value
            for node in self.graph
            for value, fixed in self._ports(node)
            if _is_float(value) and not _is_constant(value) and (fixed or value.name in wide)
        }

    def lower(self) -> None:
        for node in list(self.graph):
            single = self._is_single(node)
            ports = list(self._ports(node))
            for index, (value, fixed) in enumerate(ports[: len(node.inputs)]):
                if _is_float(value) and node.op_type not in _ANY_TYPE:
                    wanted = _SINGLE if single or fixed else _HALF
                    node.replace_input_with(index, self._as(value, wanted, node))
            for value, fixed in ports[len(node.inputs) :]:
                if _is_float(value) and not (single or fixed):
                    value.type = ir.TensorType(_HALF)  # clones may share the type object
                    if node.op_type == "Cast":
                        node.attributes["to"] = ir.AttrInt64("to", _HALF.value)
        for index, value in enumerate(self.graph.outputs):
            if value.dtype == _HALF:
                name = str(value.name)
                value.name = f"{name}.float16"
                cast = _cast(value, _SINGLE, name)
                self.graph.append(cast)
                self.graph.outputs[index] = cast.outputs[0]

    def _is_single(self, node: ir.Node) -> bool:
        """True if a node computes in float32; its inputs have their types already."""
        floats = [v for v in node.inputs if _is_float(v) and not _is_constant(v)]
        if any(not fixed and value in self._wide for value, fixed in self._ports(node)):
            return True
        if any(v is not None and v.dtype in _EIGHT_BITS for v in node.inputs):
            return False
        attends = node.domain == DOMAIN and node.op_type == ATTENTION_ROUND
        if attends or all(value in self._apart for value in floats):
            self._apart.update(node.outputs)
            return True
        if node.op_type in MOVES:
            return all(value.dtype == _SINGLE for value in floats)
        name = node.op_type
        is_reduction = name.startswith(("Reduce", "GlobalAverage"))
        return not node.domain and (is_reduction or name.endswith("Normalization"))

    def _ports(self, node: ir.Node) -> Iterator[tuple[ir.Value | None, bool]]:
        """Inputs, then outputs of a node, each with True if it is float32 by definition.

        Values may repeat, since optimizers merge equal constants.
        """
        function = self.model.functions.get(node.op_identifier())
        if function is not None:
            own = _FLOAT32_PARAMETERS if node.domain == DOMAIN else ()
            parameters = (*function.inputs, *function.outputs)
            for parameter, value in zip(parameters, (*node.inputs, *node.outputs), strict=True):
                yield value, parameter.name in own
            return
        schema = defs.get_schema(node.op_type, self.model.opset_imports[""], node.domain)
        halves = {
            constraint.type_param_str
            for constraint in schema.type_constraints
            if "tensor(float16)" in constraint.allowed_type_strs
        }
        for formal, values in ((schema.inputs, node.inputs), (schema.outputs, node.outputs)):
            for index, value in enumerate(values):  # the last formal parameter may be variadic
                yield value, formal[min(index, len(formal) - 1)].type_str not in halves

    def _as(self, value: ir.Value, wanted: ir.DataType, reader: ir.Node) -> ir.Value:
        """Convert a value to a type, by a Cast before its first reader or as a new constant."""
        if value.dtype == wanted:
            return value
        if (value, wanted) not in self._typed:
            name = f"{value.name}.{wanted.name.lower()}"
            if _is_constant(value):
                self._typed[value, wanted] = self._rounded(value, name)
            else:
                cast = _cast(value, wanted, name)
                self.graph.insert_before(reader, cast)
                self._typed[value, wanted] = cast.outputs[0]
        return self._typed[value, wanted]

    def _rounded(self, constant: ir.Value, name: str) -> ir.Value:
        exact = constant_values(constant)
        finite = np.abs(exact[np.isfinite(exact) & (exact != 0)])
        if finite.size and finite.max() >= _FIRST_INFINITE:
            raise ExportError(
                f"{constant.name} has values up to {finite.max():.3g}; limit of float16: 65504. "
                "Add the output of the node that reads it to `wide`"
            )
        if share := float((finite < _SMALLEST_NORMAL).mean()) if finite.size else 0.0:
            self.subnormal[str(constant.name)] = share
        return new_initializer(self.graph, name, exact, _HALF)


def _is_float(value: ir.Value | None) -> TypeGuard[ir.Value]:
    return value is not None and value.dtype in (_SINGLE, _HALF)


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    to = {"to": dtype.value}
    return named_node("Cast", [value], to, name=name, dtype=dtype, shape=value.shape)
