"""Nodes and values of a graph: what they are, where they come from, what takes their place.

A constant that a fold made keeps its unrounded values for the next fold. No initializer is changed
in place, because two nodes may share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[np.float64]

CHANNEL_MAP = "channel_map"
"""By which a value knows what `map_channels` noted."""
_UNROUNDED = "unrounded"


class NotFoldable(Exception):
    """The reason for which a pass leaves a node alone."""


def label(node: ir.Node) -> str:
    """How a message calls a node."""
    return node.name or str(node.outputs[0].name)


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that a node is in (the passes leave function bodies alone)."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def constant_of(value: ir.Value | None) -> Array | None:
    """A constant in float64, unrounded where a fold made it; None for what is not constant."""
    if value is None or value.is_graph_input():
        return None
    if (unrounded := value.meta.get(_UNROUNDED)) is not None:
        return np.asarray(unrounded, dtype=np.float64)
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy().astype(np.float64)


def constant_values(value: ir.Value | None) -> Array:
    """A constant in float64, as `constant_of` has it.

    Raises:
        NotFoldable: it is not constant.
    """
    if (values := constant_of(value)) is None:
        raise NotFoldable(f"{value.name if value else 'an input'} is not constant")
    return values


def shape_of(value: ir.Value | None) -> ir.Shape:
    """The shape of a value, with whatever sizes are free.

    Raises:
        NotFoldable: it is unknown.
    """
    if value is None or value.shape is None:
        raise NotFoldable(f"the shape of {value.name if value else 'an input'} is unknown")
    return value.shape


def dtype_of(value: ir.Value | None) -> ir.DataType:
    """The data type of a value.

    Raises:
        NotFoldable: it is unknown.
    """
    if value is None or value.dtype is None:
        raise NotFoldable(f"the data type of {value.name if value else 'an input'} is unknown")
    return value.dtype


def new_initializer(
    graph: ir.Graph, name: str, values: npt.NDArray[Any], dtype: ir.DataType
) -> ir.Value:
    """Add a constant of a data type to a graph, under a free name that begins with `name`."""
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
    """Give an input of a node new constant values, by default of the type of the old ones.

    An initializer that nothing else reads goes, and leaves its name to the new one.

    Raises:
        NotFoldable: there is no type.
    """
    graph, old = graph_of(node), node.inputs[index]
    dtype, name = dtype or dtype_of(old), name or str(old and old.name)
    node.replace_input_with(index, None)
    if old is not None and old.name and not old.uses() and not old.is_graph_output():
        name = old.name
        graph.initializers.pop(name, None)
    node.replace_input_with(index, new_initializer(graph, name, values, dtype))


def sole_consumer(value: ir.Value) -> bool:
    """Whether exactly one input of one node reads a value, and nothing outside the graph does."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def is_op(node: ir.Node | None, *op_types: str) -> TypeGuard[ir.Node]:
    """Whether a node is one of these operators of ONNX's own."""
    return node is not None and node.op_type in op_types and not node.domain


def is_batch_norm(node: ir.Node) -> bool:
    """Whether a node is ONNX's own BatchNormalization."""
    return is_op(node, "BatchNormalization")


def produced_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node of a type in the default domain that computes a value, if one does."""
    node = value.producer() if value is not None else None
    return node if is_op(node, op_type) else None


def producer_of(value: ir.Value) -> ir.Node:
    """The node that computes a value.

    Raises:
        NotFoldable: it is an input or an initializer.
    """
    if (node := value.producer()) is None:
        raise NotFoldable(f"no node computes {value.name}")
    return node


def input_of(node: ir.Node, index: int) -> ir.Value:
    """An input that a node has to have.

    Raises:
        NotFoldable: it is left out.
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
    """A node whose one result is called like it, with what is known of its type and shape."""
    node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
    result = node.outputs[0]
    result.name = name
    if dtype is not None:
        result.dtype = dtype
    if shape is not None:
        result.shape = ir.Shape(shape)
    return node


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let all readers of `old` read `new`, and remove the node that computed `old`.

    A graph output keeps its name, and what it holds.
    """
    node, name, is_output = producer_of(old), old.name, old.is_graph_output()
    if is_output:
        new.type, new.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)
    if is_output:
        new.name = name
        new.meta.pop(CHANNEL_MAP, None)
