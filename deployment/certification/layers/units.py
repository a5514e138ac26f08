"""In which units a deployed model has what its reference has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.deployment.certification.layers.graph import (
    ADD,
    CONV,
    MODULATOR,
    LayerGraph,
    unconverted,
)
from adadm.export.graph.rewriting import produced_by
from adadm.runtime.models.metadata import ModelMetadata

__all__ = ["ChannelMap", "units"]

Array = npt.NDArray[Any]

_LARGEST_MISFIT = 0.1
"""Of weights from a multiple of others, as a share of them; rounding to INT8 leaves 0.02."""


@dataclass(frozen=True)
class ChannelMap:
    """The candidate has `scale * x + offset` for the reference's `x`; both (C,) or one number.

    A scale is NaN for a channel that tells nothing: it is 0 everywhere, or nothing reads it.
    """

    scale: Array
    offset: Array

    def to_candidate(self, values: Array) -> Array:
        """What the reference has (N, C, H, W), as the candidate would have it."""
        scale = np.nan_to_num(self.scale, nan=1.0)
        scaled = values * _spread(scale) if (scale != 1).any() else values
        return scaled + _spread(self.offset) if self.offset.any() else scaled

    def to_reference(self, values: Array) -> Array:
        """What the candidate has (N, C, H, W), as the reference would have it."""
        moved = values - _spread(self.offset) if self.offset.any() else values
        return moved / _spread(self.scale) if (self.scale != 1).any() else moved


def units(reference: LayerGraph, candidate: LayerGraph) -> dict[str, ChannelMap]:
    """The units of each layer that both have, by name, in the order of the reference.

    Layers are the same by name and kind. Lowering and folding change units on purpose:

    - What a convolution returns to a ReLU, up to the convolution that reads it, has a scale a
      channel (`EqualizeChannels`, `FoldBatchNormAfterRelu`). Three things tell it: the rows of the
      one convolution, the constants between, and the input channels of the other; the median of
      them is right when one of the three is wrong, which the comparison then finds there. Without
      constants there are two, and of a wrong scale both get half: the block is right, the first of
      the two convolutions is named.
    - The trunk, and what is added to it, may be multiplied by one number (`ScaleTrunk`), which
      `adadm quantize` notes; the weights tell which convolutions are.
    - The trunk is shifted by the `center` of the modulator that reads it (`ShiftTrunk`), and what
      is added to a shifted trunk by the opposite.

    Left out is a layer whose units cannot be told: weights that are no multiple of the reference's.
    """
    matched = _Matched(reference, candidate)
    offsets = [_offsets(side) for side in matched.sides]
    found = {}
    for name, scale in matched.scales.items():
        before, after = (side.get(name, np.zeros(1)) for side in offsets)
        found[name] = ChannelMap(scale, after - np.nan_to_num(scale, nan=1.0) * before)
    return found


class _Matched:
    """The scale of each layer that both graphs have and for which it is known."""

    def __init__(self, reference: LayerGraph, candidate: LayerGraph) -> None:
        self.sides = (reference, candidate)
        self.names = [{v: name for name, (_, v) in side.layers.items()} for side in self.sides]
        self.scales: dict[str, Array] = {}
        self._trunk = _trunk_scale(candidate.metadata) / _trunk_scale(reference.metadata)
        self._between: dict[str, Array | None] = {}  # scales of sums after a ReLU
        for name, (kind, value) in reference.layers.items():
            if candidate.layers.get(name, ("",))[0] == kind:
                scale = self._scale(name, kind, value)
                if scale is not None:
                    self.scales[name] = scale

    def _scale(self, name: str, kind: str, value: ir.Value) -> Array | None:
        if name in self._between:
            return self._between[name]
        reference = self.sides[0]
        if kind == CONV and (ends := _to_next_convolution(reference, value)) is not None:
            scale = self._scale_by_channel(name, value)
            if ends[0] in self.names[0]:
                self._between[self.names[0][ends[0]]] = scale
            return scale
        if self._trunk == 1:
            return np.ones(1)
        if kind == CONV:
            rows = self._by_rows(name)
            return None if rows is None else self._nearest(float(np.nanmedian(np.abs(rows))))
        waiting = [m.trunk for m in reference.modulators if m.result is value]
        waiting += _summands(value) if kind == ADD else []
        while waiting:
            summand = waiting.pop(0)
            if (known := self.scales.get(self.names[0].get(summand, ""))) is not None:
                return known
            waiting += _summands(summand)
        return None if kind in (ADD, MODULATOR) else np.ones(1)

    def _nearest(self, ratio: float) -> Array:
        return np.array([min((1.0, self._trunk), key=lambda s: abs(math.log(ratio / s)))])

    def _scale_by_channel(self, name: str, value: ir.Value) -> Array | None:
        """The median of what tells it."""
        channels = value.shape[1] if value.shape is not None else None
        ways = (way(name) for way in (self._by_constants, self._by_rows, self._by_columns))
        known = [scale for scale in ways if scale is not None and scale.size == channels]
        if not known:
            return None
        told = np.stack(known)
        alive = ~np.isnan(told).all(axis=0)
        median = np.full(told.shape[1], np.nan)
        median[alive] = np.nanmedian(told[:, alive], axis=0)
        return median

    def _by_rows(self, name: str) -> Array | None:
        """By what the convolution's weights are multiplied."""
        rows = []
        for index, side in enumerate(self.sides):
            convolution = side.layers[name][1].producer()
            assert convolution is not None and convolution.inputs[0] is not None
            weight = side.constant(convolution.inputs[1])
            read = self._scale_read(index, convolution.inputs[0])
            if weight is None or read is None or read.size not in (1, weight.shape[1]):
                return None
            spread = read.reshape((-1,) + (1,) * (weight.ndim - 2))
            rows.append((weight * spread).reshape(len(weight), -1))
        return _ratio(*rows)

    def _by_columns(self, name: str) -> Array | None:
        """By what the weights of the next convolution's input channels are divided."""
        columns = []
        for side in self.sides:
            ends = _to_next_convolution(side, side.layers[name][1])
            weight = side.constant(ends[1].inputs[1]) if ends is not None else None
            if weight is None:
                return None
            columns.append(np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1))
        return _ratio(*reversed(columns))

    def _by_constants(self, name: str) -> Array | None:
        """By what the constants after the ReLU are multiplied."""
        constants = []
        for side in self.sides:
            ends = _to_next_convolution(side, side.layers[name][1])
            summed = side.by_channel(ends[0].producer(), ADD) if ends is not None else None
            if summed is None:
                return None
            constants.append(summed[1].reshape(-1, 1))
        return _ratio(*constants)

    def _scale_read(self, index: int, value: ir.Value) -> Array | None:
        """The scale of what a convolution reads, with what stands before it; the reference's is 1.

        Returns:
            (C,) or one number; None where it cannot be told.
        """
        value, side = unconverted(value), self.sides[index]
        if value in self.names[index]:
            return np.ones(1) if index == 0 else self.scales.get(self.names[index][value])
        node = value.producer()
        if node is None:
            return np.ones(1)
        if (product := side.by_channel(node, "Mul")) is not None:
            before = self._scale_read(index, product[0])
            return None if before is None else before * product[1]
        read = [part for part in node.inputs if part is not None]
        if node.op_type in ("Relu", "Transpose"):
            return self._scale_read(index, read[0])
        if node.op_type != "Concat":
            return None
        parts = [self._scale_read(index, part) for part in read]
        sizes = [part.shape[1] if part.shape is not None else None for part in read]
        spread = [
            np.broadcast_to(part, (size,))
            for part, size in zip(parts, sizes, strict=True)
            if part is not None and isinstance(size, int)
        ]
        return np.concatenate(spread) if len(spread) == len(read) else None


def _spread(values: Array) -> Array:
    return values.astype(np.float32).reshape(1, -1, 1, 1)


def _summands(value: ir.Value) -> list[ir.Value]:
    add = produced_by(value, ADD)
    return [unconverted(v) for v in add.inputs if v is not None] if add is not None else []


def _to_next_convolution(side: LayerGraph, value: ir.Value) -> tuple[ir.Value, ir.Node] | None:
    """Over a ReLU, and what a constant is added to, if nothing else reads what lies between.

    Returns:
        What the next convolution reads, and it.
    """
    relu = _sole_reader(value)
    if relu is None or relu.op_type != "Relu":
        return None
    last, reader = relu.outputs[0], _sole_reader(relu.outputs[0])
    if reader is not None and side.by_channel(reader, ADD) is not None:
        last, reader = reader.outputs[0], _sole_reader(reader.outputs[0])
    return (last, reader) if reader is not None and reader.op_type == CONV else None


def _sole_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, beyond conversions."""
    while len(value.uses()) == 1 and not value.is_graph_output():
        ((reader, _),) = value.uses()
        if unconverted(reader.outputs[0]) is not unconverted(value):
            return reader
        value = reader.outputs[0]
    return None


def _ratio(reference: Array, candidate: Array) -> Array | None:
    """By what the rows of a matrix are multiplied, least squares; NaN for those of zeros."""
    if reference.shape != candidate.shape:
        return None
    power = (reference**2).sum(axis=1)
    alive = (power > 0) & (candidate**2).any(axis=1)
    if not alive.any():
        return None
    ratio = np.full(len(reference), np.nan)
    ratio[alive] = (reference * candidate).sum(axis=1)[alive] / power[alive]
    rest = np.linalg.norm(candidate - ratio[:, None] * reference, axis=1)
    misfit = np.median(rest[alive] / np.linalg.norm(candidate, axis=1)[alive])
    return ratio if misfit < _LARGEST_MISFIT else None


def _offsets(side: LayerGraph) -> dict[str, Array]:
    """What is added to layers of one graph, by name; 0 for others."""
    names = {value: name for name, (_, value) in side.layers.items()}
    found = {names[m.trunk]: m.center for m in side.modulators if m.trunk in names}
    for name, (kind, value) in side.layers.items():
        if kind == ADD and name not in found:
            read = [names.get(summand, "") for summand in _summands(value)]
            for one, other in (read, read[::-1]):
                if one in found and other and other not in found:
                    found[other] = -found[one]
    return found


def _trunk_scale(metadata: ModelMetadata) -> float:
    """By what `ScaleTrunk` multiplied the trunk; a factor follows, if the residual does not."""
    return max(metadata.factor_scales, key=lambda s: abs(math.log(s)), default=1.0)
