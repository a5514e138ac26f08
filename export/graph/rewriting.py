"""Nodes and values of a graph: what they are, where they come from, what takes their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from adadm.export.graph.channels import NotFoldable, graph_of, label, take_channel_map

__all__ = [
    "input_of",
    "is_batch_norm",
    "is_op",
    "named_node",
    "produced_by",
    "producer_of",
    "replace",
]


def is_op(node: ir.Node, *op_types: str) -> bool:
    """Whether a node is one of these operators of ONNX's own."""
    return node.op_type in op_types and not node.domain


def is_batch_norm(node: ir.Node) -> bool:
    """Whether a node is ONNX's own BatchNormalization."""
    return is_op(node, "BatchNormalization")


def produced_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node of a type in the default domain that computes a value, if one does."""
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, op_type) else None


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
    dtype: ir.DataType,
    shape: Sequence[int | ir.SymbolicDim | None] | None = None,
    domain: str = "",
) -> ir.Node:
    """A node whose one result is called like it, with a type and maybe a shape."""
    node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
    result = node.outputs[0]
    result.name, result.dtype = name, dtype
    result.shape = None if shape is None else ir.Shape(shape)
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
        take_channel_map(new)
