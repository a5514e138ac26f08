"""Per-channel affine maps, and the convolutions that they fold into.

Weights are combined in float64 and rounded once: a changed initializer keeps its unrounded values
for the next fold. No initializer is changed in place, because two nodes may share it. A value whose
content is mapped keeps the map, for `graph.channel_maps`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.export.graph.rewriting import (
    CHANNEL_MAP,
    NotFoldable,
    constant_of,
    dtype_of,
    label,
    replace_initializer,
    shape_of,
)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """The per-channel map `scale * x + shift`; both (C,), or (1,) for all channels."""

    scale: Array
    shift: Array

    def after(self, first: Affine | None) -> Affine:
        """This map applied to the result of `first`, if given."""
        if first is None:
            return self
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift)


@dataclass(frozen=True)
class Leaf:
    """A convolution that a value reaches, directly or through Concat along the channels.

    Attributes:
        offset: input channel of the convolution at which the value's channels begin.
    """

    convolution: ir.Node
    offset: int


def map_channels(value: ir.Value, affine: Affine) -> None:
    """Record that a value now holds `affine` of its former content."""
    value.meta[CHANNEL_MAP] = affine.after(value.meta.get(CHANNEL_MAP))


def take_channel_map(value: ir.Value) -> Affine | None:
    """Remove and return the map from a value's content before all passes."""
    noted: Affine | None = value.meta.pop(CHANNEL_MAP, None)
    return noted


def affine_of_batch_norm(node: ir.Node) -> Affine:
    """Affine map of a BatchNormalization in inference.

    Raises:
        NotFoldable: the node is in training mode, or a parameter is not constant.
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
    """Std over all channels, from the running statistics of a BatchNormalization.

    Raises:
        NotFoldable: the statistics are not constant.
    """
    mean, variance = (constant_of(value) for value in node.inputs[3:5])
    if mean is None or variance is None:
        raise NotFoldable("its running statistics are not constant")
    return float(np.sqrt(pooled_variance(mean, variance)))


def pooled_variance(means: Array, variances: Array) -> float:
    """Variance over all channels, from those of each (C,), by the law of total variance."""
    return float(variances.mean() + means.var())


def are_initial(means: Array, variances: Array) -> bool:
    """True if running statistics (C,) are those of a new batch normalization: 0 and 1."""
    return bool((means == 0).all() and (variances == 1).all())


def check_shift_of(modulator: ir.Node) -> None:
    """Refuse a modulator whose center or delta a pass cannot change.

    Raises:
        NotFoldable: center or delta is not constant.
    """
    if any(constant_of(value) is None for value in modulator.inputs[2:]):
        raise NotFoldable(f"center or delta of {label(modulator)} is not constant")


def weight_of(convolution: ir.Node) -> Array:
    """Weights (M, C/group, ...) of a convolution.

    Raises:
        NotFoldable: the weights are not constant.
    """
    weight = constant_of(convolution.inputs[1])
    if weight is None:
        raise NotFoldable(f"the weights of {label(convolution)} are not constant")
    return weight


def bias_of(convolution: ir.Node) -> Array:
    """Bias (M,) of a convolution; zeros without one.

    Raises:
        NotFoldable: the bias is not constant.
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


def pads(convolution: ir.Node) -> bool:
    """True if a convolution pads its input with zeros at the border."""
    if convolution.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return True
    return any(convolution.attributes.get_ints("pads", ()))


def scale_inputs(leaf: Leaf, scale: Array) -> None:
    """Multiply the weights of some input channels of a convolution."""
    weight = weight_of(leaf.convolution)
    factors = _by_weight(leaf, scale, fill=1.0)
    set_weight(leaf.convolution, weight * _spread(factors, weight.ndim))


def shift_inputs(leaf: Leaf, shift: Array) -> None:
    """Add `shift` to some input channels of an unpadded convolution, by its bias."""
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
    """Append axes, to broadcast values over the kernel."""
    return values.reshape(values.shape + (1,) * (ndim - values.ndim))


def scale_outputs(convolution: ir.Node, affine: Affine, *, noted: bool = True) -> None:
    """Fold an affine map of the output into a convolution.

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
        NotFoldable: another kind of node reads the value, or it is a graph output.
    """
    if value.is_graph_output():
        raise NotFoldable(f"{value.name} is a graph output")
    return [leaf for node, index in value.uses() for leaf in input_leaves(value, node, index)]


def input_leaves(value: ir.Value, node: ir.Node, index: int) -> list[Leaf]:
    """Convolutions that one use of a value reaches.

    Raises:
        NotFoldable: the use reaches another kind of node too.
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
