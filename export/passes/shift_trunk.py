"""Fold a BatchNormalization between trunk and padded convolutions by shifting the trunk (norm1)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.export.graph.channels import (
    Affine,
    affine_of_batch_norm,
    bias_of,
    check_shift_of,
    input_leaves,
    map_channels,
    pads,
    reached_convolutions,
    scale_inputs,
    set_bias,
    shift_inputs,
    std_of_batch_norm_input,
)
from adadm.export.graph.rewriting import (
    NotFoldable,
    constant_values,
    input_of,
    is_batch_norm,
    is_op,
    label,
    replace,
    replace_initializer,
    sole_consumer,
)
from adadm.export.operators.modulator import SIGNATURES, is_modulator
from adadm.export.passes.folding import FoldingPass

LARGEST_CENTER_TO_STD = 16.0
"""Largest ratio of `max|c|` to the std of the trunk: 16 costs 4 of the 24 bits of float32."""

Edit = Callable[[], None]
Array = npt.NDArray[np.float64]


class ShiftTrunk(FoldingPass):
    """Folds a BatchNormalization that reads the trunk of an AdaDM network.

    Pattern: `x -> BatchNormalization -> (Concat ->)* Conv`, where a modulator reads the same `x`.

    Algebra: `a x + t = a (x + c)` with `c = t / a`. The trunk carries `x + c`; the convolutions
    take `a` into the weights of their input channels. The node that computes `x` adds `c` (the bias
    of a convolution, `delta` of a modulator). Other readers of `x` subtract it again: `center` and
    `delta` of a modulator, the mean of another BatchNormalization, the bias of an unpadded
    convolution, the other operand of an Add.

    Exact when: always. The zeros that pad the convolutions stand for `a (x + c) = 0` both before
    and after.

    Left alone when: `a = 0` for a channel with `t != 0`; `max|c|` is above `LARGEST_CENTER_TO_STD`
    times the std of `x` from the running statistics, so that digits would be lost; a node that
    computes or reads `x` cannot take the shift; a parameter is not constant.
    """

    result: ClassVar[str] = "shifted trunk"

    def matches(self, node: ir.Node) -> bool:
        trunk = node.inputs[0] if is_batch_norm(node) else None
        return trunk is not None and any(
            is_modulator(reader) and index == 0 for reader, index in trunk.uses()
        )

    def fold(self, node: ir.Node) -> None:
        trunk = input_of(node, 0)
        affine = affine_of_batch_norm(node)
        leaves = reached_convolutions(node.outputs[0])
        center = _center(node)
        if trunk.is_graph_output():
            raise NotFoldable("the trunk is a graph output here")
        if trunk.dtype is None:
            raise NotFoldable("the data type of the trunk is unknown")
        edits = list(_shift_producer(trunk, center, trunk.dtype))
        for reader, index in trunk.uses():
            if reader is not node:
                edits += _absorb(trunk, reader, index, center, trunk.dtype)
        for edit in edits:
            edit()
        for leaf in leaves:
            scale_inputs(leaf, affine.scale)
        replace(node.outputs[0], trunk)


def _center(node: ir.Node) -> Array:
    """Compute `c = t / a`, if it is defined and small enough to keep the digits of the trunk."""
    affine = affine_of_batch_norm(node)
    dead = affine.scale == 0
    if (impossible := dead & (affine.shift != 0)).any():
        raise NotFoldable(f"gamma is 0 in channel {int(np.argmax(impossible))}, and beta is not")
    center = np.where(dead, 0.0, affine.shift / np.where(dead, 1.0, affine.scale))
    std = std_of_batch_norm_input(node)
    channel = int(np.abs(center).argmax())
    if (largest := abs(center[channel])) > LARGEST_CENTER_TO_STD * std:
        raise NotFoldable(
            f"the shift of channel {channel} is {largest:.3g}, more than {LARGEST_CENTER_TO_STD:g} "
            f"times the std {std:.3g} of the trunk"
        )
    return center


def _shift_producer(value: ir.Value, shift: Array, dtype: ir.DataType) -> Sequence[Edit]:
    """Edits that make the node that computes `value` add `shift` (C,) in the trunk's type."""
    producer = value.producer()
    noted = functools.partial(map_channels, value, Affine(np.ones(1), shift))
    if is_modulator(producer) and value.index() == 0:
        check_shift_of(producer)
        return noted, lambda: _move(producer, shift, dtype, to_center=0, to_delta=1)
    if is_op(producer, "Conv"):
        if bias_of(producer).shape != shift.shape:
            raise NotFoldable(f"{label(producer)} has another number of channels than the trunk")
        return noted, lambda: set_bias(producer, bias_of(producer) + shift)
    if is_op(producer, "Add"):
        for operand in producer.inputs:
            if operand is not None and sole_consumer(operand):
                try:
                    return noted, *_shift_producer(operand, shift, dtype)
                except NotFoldable:
                    continue
    source = f"{producer.op_type} {label(producer)}" if producer is not None else "a graph input"
    raise NotFoldable(f"the trunk comes from {source}, which cannot take the shift")


def _absorb(
    trunk: ir.Value, reader: ir.Node, index: int, shift: Array, dtype: ir.DataType
) -> Iterator[Edit]:
    """Edits that keep the result of a reader of the shifted trunk."""
    if is_modulator(reader) and index == 0:
        check_shift_of(reader)
        yield lambda: _move(reader, shift, dtype, to_center=1, to_delta=-1)
    elif is_batch_norm(reader) and index == 0:
        affine_of_batch_norm(reader)
        yield lambda: _move_mean(reader, shift)
    elif is_op(reader, "Add"):
        other = reader.inputs[1 - index]
        if other is None or other is trunk or not sole_consumer(other):
            raise NotFoldable(f"Add {label(reader)} reads the trunk and cannot take the shift back")
        yield from _shift_producer(other, -shift, dtype)
    else:
        for leaf in input_leaves(trunk, reader, index):
            if pads(leaf.convolution):
                raise NotFoldable(f"{label(leaf.convolution)} reads the trunk and pads it")
            yield functools.partial(shift_inputs, leaf, -shift)


def _move(
    modulator: ir.Node, shift: Array, dtype: ir.DataType, *, to_center: int, to_delta: int
) -> None:
    """Add multiples of a shift to a modulator's center and delta, making it shifted if needed."""
    signature = SIGNATURES[modulator.op_type]
    if not signature.shifted:
        modulator.op_type = signature.as_shifted.name
        modulator.resize_inputs(4)
    shape = (1, shift.size, 1, 1)
    for index, kind, times in ((2, "center", to_center), (3, "delta", to_delta)):
        old = modulator.inputs[index]
        before = constant_values(old) if old is not None else np.zeros(shape)
        values = before + times * shift.reshape(shape)
        name = f"{label(modulator)}.{kind}"
        replace_initializer(modulator, index, values, name=name, dtype=dtype)


def _move_mean(norm: ir.Node, shift: Array) -> None:
    mean = constant_values(norm.inputs[3])
    replace_initializer(norm, 3, mean + shift, name=f"{label(norm)}.running_mean")
