"""Change the opset of a graph, with proof that its operators mean the same in both."""

from __future__ import annotations

import onnx_ir as ir
from onnx import AttributeProto, defs, helper

from adadm.export.operators import update_functions
from adadm.runtime.errors import ExportError

_AXES = "axes"
_NEUTRAL_WHEN_ABSENT = {
    _AXES,
    "antialias",
    "ceil_mode",
    "dilations",
    "keep_aspect_ratio_policy",
    "noop_with_empty_axes",
    "num_outputs",
    "saturate",
}
"""Attributes that operators of opset 17 to 20 gained or lost, and whose absence is neutral."""
_REDUCTIONS_OF_17 = {"none", "add", "mul"}


def set_opset(model: ir.Model, opset: int) -> None:
    """Set the opset of a graph in place, if its operators mean the same in both versions.

    A node means the same if the two definitions of its operator agree on the node's inputs and
    attributes and on all defaults, and otherwise differ only in attributes whose absence is
    neutral. The axes of reductions, an input from opset 18 on, become an attribute for 17.

    Raises:
        ExportError: an operator changed between the opsets; the message names it.
    """
    traced = model.opset_imports[""]
    nodes = [node for node in model.graph.all_nodes() if not node.domain]
    for node in nodes:
        before = defs.get_schema(node.op_type, max_inclusive_version=traced)
        try:
            after = defs.get_schema(node.op_type, max_inclusive_version=opset)
        except defs.SchemaError:
            after = None
        if after is not None:
            if before.since_version == after.since_version:
                continue
            _drop_defaults(node, before, after)
            _lower_axes(node, before, after)
        if after is None or not _means_the_same(node, before, after):
            raise ExportError(
                f"{node.op_type} ({node.name}) changed between opset {traced} and {opset}; "
                f"export with --opset {traced}"
            )
    model.opset_imports[""] = opset
    update_functions(model)


def _drop_defaults(node: ir.Node, before: defs.OpSchema, after: defs.OpSchema) -> None:
    """Remove attributes that the other version lacks, if they have their default."""
    for name in [name for name in node.attributes if name not in after.attributes]:
        default = before.attributes[name].default_value
        if default.name and node.attributes[name].value == _value(default):
            del node.attributes[name]


def _lower_axes(node: ir.Node, before: defs.OpSchema, after: defs.OpSchema) -> None:
    """Move constant axes from the second input to an attribute."""
    axes = node.inputs[1] if len(node.inputs) == 2 else None
    if _AXES in before.attributes or _AXES not in after.attributes or axes is None:
        return
    while (producer := axes.producer()) is not None and producer.op_type in ("Reshape", "Cast"):
        axes = producer.inputs[0]  # the exporter turns a single axis into a list this way
        if axes is None:
            return
    if before.inputs[1].name == _AXES and (constant := ir.convenience.get_const_tensor(axes)):
        node.attributes.add(ir.AttrInt64s(_AXES, constant.numpy().ravel().tolist()))
        node.resize_inputs(1)


def _means_the_same(node: ir.Node, before: defs.OpSchema, after: defs.OpSchema) -> bool:
    lowered = {_AXES} if _AXES in node.attributes and _AXES not in before.attributes else set()
    used = set(node.attributes) - lowered
    shared = before.attributes.keys() & after.attributes.keys()
    one_sided = before.attributes.keys() ^ after.attributes.keys()
    if not (used <= shared and one_sided <= _NEUTRAL_WHEN_ABSENT):
        return False
    if node.attributes.get_string("reduction", "none") not in _REDUCTIONS_OF_17:
        return False
    return [value.name for value in before.inputs[: len(node.inputs)]] == [
        value.name for value in after.inputs[: len(node.inputs)]
    ] and all(
        before.attributes[name].default_value == after.attributes[name].default_value
        for name in shared
    )


def _value(attribute: AttributeProto) -> object:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value
