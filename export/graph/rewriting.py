"""Inspect and replace nodes and values of a graph.

A constant that a fold made keeps its unrounded values for the next fold. No initializer is changed
in place, because two nodes may share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.runtime.errors import ExportError

Array = npt.NDArray[np.float64]

CHANNEL_MAP = "channel_map"
"""Key of the map that `map_channels` records in a value."""
_UNROUNDED = "unrounded"


class NotFoldable(Exception):
    """The reason why a pass leaves a node alone."""


def label(node: ir.Node) -> str:
    """Name of a node for messages."""
    return node.name or str(node.outputs[0].name)


def graph_of(node: ir.Node) -> ir.Graph:
    """Graph of a node (the passes leave function bodies alone)."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def constant_of(value: ir.Value | None) -> Array | None:
    """Constant in float64, unrounded if a fold made it; None if the value is not constant.

    Raises:
        ExportError: the constant has fewer or more bytes than its shape needs.
    """
    if value is None or value.is_graph_input():
        return None
    if (unrounded := value.meta.get(_UNROUNDED)) is not None:
        return np.asarray(unrounded, dtype=np.float64)
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    try:
        return tensor.numpy().astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ExportError(f"the weights {value.name} are damaged: {error}") from error


def constant_values(value: ir.Value | None) -> Array:
    """Constant in float64, as from `constant_of`.

    Raises:
        NotFoldable: the value is not constant.
    """
    if (values := constant_of(value)) is None:
        raise NotFoldable(f"{value.name if value else 'an input'} is not constant")
    return values


def shape_of(value: ir.Value | None) -> ir.Shape:
    """Shape of a value, including free sizes.

    Raises:
        NotFoldable: the shape is unknown.
    """
    if value is None or value.shape is None:
        raise NotFoldable(f"the shape of {value.name if value else 'an input'} is unknown")
    return value.shape


def dtype_of(value: ir.Value | None) -> ir.DataType:
    """Data type of a value.

    Raises:
        NotFoldable: the data type is unknown.
    """
    if value is None or value.dtype is None:
        raise NotFoldable(f"the data type of {value.name if value else 'an input'} is unknown")
    return value.dtype


def new_initializer(
    graph: ir.Graph, name: str, values: npt.NDArray[Any], dtype: ir.DataType
) -> ir.Value:
    """Add a constant to a graph, under a free name that begins with `name`."""
    free, count = name, 0
    while free in graph.initializers:
        count += 1
        free = f"{name}_{count}"
    value = ir.Value(name=free, const_value=ir.tensor(values.astype(dtype.numpy()), name=free))
    value.shape = ir.Shape(values.shape)
    value.dtype = dtype
    value.meta[_UNROUNDED] = values
    graph.register_initializer(value)
    return value


def replace_initializer(
    node: ir.Node, index: int, values: Array, *, name: str = "", dtype: ir.DataType | None = None
) -> None:
    """Give an input of a node new constant values, by default in the type of the old ones.

    An old initializer without other readers is removed; the new one takes its name.

    Raises:
        NotFoldable: the type is unknown.
    """
    graph, old = graph_of(node), node.inputs[index]
    dtype, name = dtype or dtype_of(old), name or str(old and old.name)
    node.replace_input_with(index, None)
    if old is not None and old.name and not old.uses() and not old.is_graph_output():
        name = old.name
        graph.initializers.pop(name, None)
    node.replace_input_with(index, new_initializer(graph, name, values, dtype))


def sole_consumer(value: ir.Value) -> bool:
    """True if exactly one input of one node reads a value, and it is not a graph output."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def is_op(node: ir.Node | None, *op_types: str) -> TypeGuard[ir.Node]:
    """True if a node is one of these operators of the default domain."""
    return node is not None and node.op_type in op_types and not node.domain


def is_batch_norm(node: ir.Node) -> bool:
    """True if a node is a BatchNormalization of the default domain."""
    return is_op(node, "BatchNormalization")


def produced_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Node that computes a value, if it has this type in the default domain; else None."""
    node = value.producer() if value is not None else None
    return node if is_op(node, op_type) else None


def producer_of(value: ir.Value) -> ir.Node:
    """Node that computes a value.

    Raises:
        NotFoldable: the value is an input or an initializer.
    """
    if (node := value.producer()) is None:
        raise NotFoldable(f"no node computes {value.name}")
    return node


def input_of(node: ir.Node, index: int) -> ir.Value:
    """Required input of a node.

    Raises:
        NotFoldable: the input is left out.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise NotFoldable(f"input {index} of {label(node)} is left out")
    return value


def named_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str,
    dtype: ir.DataType | None = None,
    shape: Iterable[int | ir.SymbolicDim | None] | None = None,
    domain: str = "",
) -> ir.Node:
    """Make a node whose single result has its name, and the type and shape if given."""
    node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
    result = node.outputs[0]
    result.name = name
    if dtype is not None:
        result.dtype = dtype
    if shape is not None:
        result.shape = ir.Shape(shape)
    return node


def replace(old: ir.Value, new: ir.Value) -> None:
    """Make all readers of `old` read `new`, and remove the node that computed `old`.

    A graph output keeps its name and its content.
    """
    node, name, is_output = producer_of(old), old.name, old.is_graph_output()
    if is_output:
        new.type, new.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)
    if is_output:
        new.name = name
        new.meta.pop(CHANNEL_MAP, None)
