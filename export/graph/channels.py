"""Per-channel affine maps, and the convolutions that they fold into.

Weights are combined in float64 and rounded once: a changed initializer keeps its unrounded values
for the next fold. No initializer is changed in place, because two nodes may share it. A value that
holds a map of what it held before keeps that map, for `graph.channel_maps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "Affine",
    "Leaf",
    "NotFoldable",
    "affine_of_batch_norm",
    "bias_of",
    "constant_of",
    "constant_values",
    "dtype_of",
    "graph_of",
    "input_leaves",
    "label",
    "map_channels",
    "new_initializer",
    "pads",
    "pooled_variance",
    "reached_convolutions",
    "replace_initializer",
    "scale_inputs",
    "scale_outputs",
    "set_bias",
    "set_weight",
    "shape_of",
    "shift_inputs",
    "sole_consumer",
    "std_of_batch_norm_input",
    "take_channel_map",
    "weight_of",
]

Array = npt.NDArray[np.float64]

_UNROUNDED, _MAP = "unrounded", "channel_map"


class NotFoldable(Exception):
    """The reason for which a pass leaves a node alone."""


@dataclass(frozen=True)
class Affine:
    """The per-channel map `scale * x + shift`; both (C,), or (1,) for all channels."""

    scale: Array
    shift: Array

    def after(self, first: Affine | None) -> Affine:
        """This map of what another one returns, if one is given."""
        if first is None:
            return self
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift)


@dataclass(frozen=True)
class Leaf:
    """A convolution that a value reaches, directly or through Concat along the channels.

    Attributes:
        offset: the input channel of the convolution at which the value's channels begin.
    """

    convolution: ir.Node
    offset: int


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


def map_channels(value: ir.Value, affine: Affine) -> None:
    """Note that a value holds a map of what it held before."""
    value.meta[_MAP] = affine.after(value.meta.get(_MAP))


def take_channel_map(value: ir.Value) -> Affine | None:
    """What a value holds of what it held before all passes; it forgets that."""
    noted: Affine | None = value.meta.pop(_MAP, None)
    return noted


def affine_of_batch_norm(node: ir.Node) -> Affine:
    """The affine map of a BatchNormalization in inference.

    Raises:
        NotFoldable: it is in training mode, or a parameter is not constant.
    """
    if node.attributes.get_int("training_mode", 0) or len(node.outputs) > 1:
        raise NotFoldable("it is in training mode")
    parameters = [constant_of(value) for value in node.inputs[1:5]]
    if any(values is None for values in parameters):
        raise NotFoldable("a parameter is not constant")
    gamma, beta, mean, variance = (np.asarray(values) for values in parameters)
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return Affine(scale, beta - mean * scale)


def std_of_batch_norm_input(node: ir.Node) -> float:
    """The std, over all channels, that the running statistics of a BatchNormalization tell.

    Raises:
        NotFoldable: they are not constant.
    """
    mean, variance = (constant_of(value) for value in node.inputs[3:5])
    if mean is None or variance is None:
        raise NotFoldable("its running statistics are not constant")
    return float(np.sqrt(pooled_variance(mean, variance)))


def pooled_variance(means: Array, variances: Array) -> float:
    """Of all channels together, by the law of total variance, from each one's (C,)."""
    return float(variances.mean() + means.var())


def sole_consumer(value: ir.Value) -> bool:
    """Whether exactly one input of one node reads a value, and nothing outside the graph does."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def weight_of(convolution: ir.Node) -> Array:
    """Weights (M, C/group, ...) of a convolution.

    Raises:
        NotFoldable: they are not constant.
    """
    weight = constant_of(convolution.inputs[1])
    if weight is None:
        raise NotFoldable(f"the weights of {label(convolution)} are not constant")
    return weight


def bias_of(convolution: ir.Node) -> Array:
    """Bias (M,) of a convolution, zeros where it has none.

    Raises:
        NotFoldable: it is not constant.
    """
    if len(convolution.inputs) < 3 or convolution.inputs[2] is None:
        return np.zeros(weight_of(convolution).shape[0])
    bias = constant_of(convolution.inputs[2])
    if bias is None:
        raise NotFoldable(f"the bias of {label(convolution)} is not constant")
    return bias


def set_weight(convolution: ir.Node, weight: Array) -> None:
    """Give a convolution new weights."""
    _set_parameter(convolution, 1, "weight", weight)


def set_bias(convolution: ir.Node, bias: Array) -> None:
    """Give a convolution a new bias; without one, add it."""
    if len(convolution.inputs) < 3:
        convolution.resize_inputs(3)
    _set_parameter(convolution, 2, "bias", bias)


def _set_parameter(convolution: ir.Node, index: int, kind: str, values: Array) -> None:
    name, dtype = f"{label(convolution)}.{kind}", dtype_of(convolution.inputs[1])
    replace_initializer(convolution, index, values, name=name, dtype=dtype)


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


def pads(convolution: ir.Node) -> bool:
    """Whether a convolution pads its input, so that zeros meet the weights at the border."""
    if convolution.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return True
    return any(convolution.attributes.get_ints("pads", ()))


def scale_inputs(leaf: Leaf, scale: Array) -> None:
    """Multiply the weights with which a convolution reads some of its input channels."""
    weight = weight_of(leaf.convolution)
    factors = _by_weight(leaf, scale, fill=1.0)
    set_weight(leaf.convolution, weight * _spread(factors, weight.ndim))


def shift_inputs(leaf: Leaf, shift: Array) -> None:
    """Let an unpadded convolution add `shift` to some of its input channels, by its bias."""
    weight = weight_of(leaf.convolution)
    shifts = _by_weight(leaf, shift, fill=0.0)
    added = (weight * _spread(shifts, weight.ndim)).reshape(weight.shape[0], -1).sum(axis=1)
    set_bias(leaf.convolution, bias_of(leaf.convolution) + added)


def _by_weight(leaf: Leaf, values: Array, fill: float) -> Array:
    """One value for each (output channel, input channel of its group): (M, C/group)."""
    outputs, inputs = weight_of(leaf.convolution).shape[:2]
    groups = leaf.convolution.attributes.get_int("group", 1)
    channels = np.full(inputs * groups, fill)
    channels[leaf.offset : leaf.offset + values.size] = values
    return np.repeat(channels.reshape(groups, inputs), outputs // groups, axis=0)


def _spread(values: Array, ndim: int) -> Array:
    """Append axes, so that values broadcast over the kernel."""
    return values.reshape(values.shape + (1,) * (ndim - values.ndim))


def scale_outputs(convolution: ir.Node, affine: Affine, *, noted: bool = True) -> None:
    """Let a convolution apply an affine map to what it returns.

    Args:
        noted: call `map_channels` too.
    """
    weight, bias = weight_of(convolution), bias_of(convolution)
    if noted:
        map_channels(convolution.outputs[0], affine)
    set_weight(convolution, weight * _spread(affine.scale, weight.ndim))
    set_bias(convolution, bias * affine.scale + affine.shift)


def reached_convolutions(value: ir.Value) -> list[Leaf]:
    """All convolutions that read a value, directly or through Concat along the channels.

    Raises:
        NotFoldable: something else reads it too, or it is a graph output.
    """
    if value.is_graph_output():
        raise NotFoldable(f"{value.name} is a graph output")
    return [leaf for node, index in value.uses() for leaf in input_leaves(value, node, index)]


def input_leaves(value: ir.Value, node: ir.Node, index: int) -> list[Leaf]:
    """The convolutions that one use of a value reaches.

    Raises:
        NotFoldable: it reaches something else too.
    """
    if node.op_type == "Conv" and not node.domain and index == 0:
        weight_of(node)
        bias_of(node)
        return [Leaf(node, 0)]
    if node.op_type == "Concat" and not node.domain and node.attributes.get_int("axis") == 1:
        before = sum(_channels(earlier) for earlier in node.inputs[:index])
        return [
            Leaf(leaf.convolution, before + leaf.offset)
            for leaf in reached_convolutions(node.outputs[0])
        ]
    raise NotFoldable(f"{node.op_type} {label(node)} reads {value.name}")


def _channels(value: ir.Value | None) -> int:
    if not isinstance(channels := shape_of(value)[1], int):
        raise NotFoldable(f"the channels of {value.name if value else 'an input'} are unknown")
    return channels
