"""In which units a deployed model computes what its reference computes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.calibration.certification.layer_graph import MODULATOR, LayerGraph, unconverted
from adadm.export.passes.folding import produced_by

__all__ = ["Unit", "units"]

Array = npt.NDArray[Any]

_FITS = 0.1


@dataclass(frozen=True)
class Unit:
    scale: Array
    offset: Array

    def applied(self, values: Array) -> Array:
        if (self.scale != 1).any():
            values = values * _spread(np.nan_to_num(self.scale, nan=1.0))
        return values + _spread(self.offset) if self.offset.any() else values

    def removed(self, values: Array) -> Array:
        if self.offset.any():
            values = values - _spread(self.offset)
        return values / _spread(self.scale) if (self.scale != 1).any() else values


def units(reference: LayerGraph, candidate: LayerGraph) -> dict[str, Unit]:
    return _Matching(reference, candidate).units


class _Matching:
    def __init__(self, reference: LayerGraph, candidate: LayerGraph) -> None:
        self.sides = reference, candidate
        self.layers = reference.layers(), candidate.layers()
        self.names = tuple({v: n for n, (_, v) in side.items()} for side in self.layers)
        self.trunk_scale = _trunk_scale(candidate.metadata) / _trunk_scale(reference.metadata)
        self.scales: dict[str, Array] = {}
        self.chains: dict[str, Array | None] = {}
        for name, (kind, value) in self.layers[0].items():
            if self.layers[1].get(name, ("",))[0] == kind:
                scale = self._scale(name, kind, value)
                if scale is not None:
                    self.scales[name] = scale
        offsets = [self._offsets(index) for index in range(2)]
        self.units = {}
        for name, scale in self.scales.items():
            one, other = (side.get(name, np.zeros(1)) for side in offsets)
            self.units[name] = Unit(scale, other - np.nan_to_num(scale, nan=1.0) * one)

    def _scale(self, name: str, kind: str, value: ir.Value) -> Array | None:
        if name in self.chains:
            return self.chains[name]
        if kind == "Conv":
            last, reader = _chain(value, self.sides[0])
            if reader is not None:
                scale = self._chain_scale(name)
                if (end := self.names[0].get(last)) is not None:
                    self.chains[end] = scale
                return scale
            if self.trunk_scale == 1:
                return np.ones(1)
            ratio = self._rows(name)
            if ratio is None:
                return None
            ratio = np.nanmedian(np.abs(ratio))
            return np.array([min((1.0, self.trunk_scale), key=lambda s: abs(np.log(ratio / s)))])
        if kind in (MODULATOR, "Add"):
            for operand in self._operands(kind, value):
                if (found := self.names[0].get(operand)) in self.scales:
                    return self.scales[found]
        return np.ones(1)

    def _operands(self, kind, value):
        if kind == MODULATOR:
            return [m.trunk for m in self.sides[0].modulators if m.result is value]
        return value.producer().inputs

    def _chain_scale(self, name: str) -> Array | None:
        votes = [self._rows(name), self._columns(name), self._constants(name)]
        known = [vote for vote in votes if vote is not None]
        if not known:
            return None
        with np.errstate(all="ignore"):
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.nanmedian(np.stack(known), axis=0)

    def _rows(self, name: str) -> Array | None:
        weights = []
        for side, layers, names in zip(self.sides, self.layers, self.names):
            conv = layers[name][1].producer()
            weight = side.constant(conv.inputs[1])
            scale = self._input_scale(
                side, names, conv.inputs[0], self.scales if side is self.sides[1] else None
            )
            if weight is None or scale is None or scale.size not in (1, weight.shape[1]):
                return None
            weights.append(
                (weight * scale.reshape(-1, *(1,) * (weight.ndim - 2))).reshape(len(weight), -1)
            )
        return _ratio(*weights)

    def _columns(self, name: str) -> Array | None:
        weights = []
        for side, layers in zip(self.sides, self.layers):
            last, reader = _chain(layers[name][1], side)
            if reader is None:
                return None
            weight = side.constant(reader.inputs[1])
            if weight is None:
                return None
            weights.append(np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1))
        found = _ratio(*weights)
        return None if found is None else 1 / found

    def _constants(self, name: str) -> Array | None:
        found = []
        for side, layers in zip(self.sides, self.layers):
            last, _ = _chain(layers[name][1], side)
            add = produced_by(last, "Add") if last is not None else None
            if add is None:
                return None
            found.append(
                next(c.reshape(-1) for c in map(side.constant, add.inputs) if c is not None)
            )
        with np.errstate(all="ignore"):
            ratio = found[1] / found[0]
        return np.where(np.isfinite(ratio) & (ratio > 0), ratio, np.nan)

    def _input_scale(self, side, names, value, scales) -> Array | None:
        value = unconverted(value)
        if value is None:
            return None
        if value in names:
            if scales is None:
                return np.ones(1)
            return scales.get(names[value])
        node = value.producer()
        if node is None:
            return np.ones(1)
        if (factor := side.scaled_by(node)) is not None:
            rest = next(v for v in node.inputs if side.constant(v) is None)
            before = self._input_scale(side, names, rest, scales)
            return None if before is None else before * factor
        if node.op_type == "Relu":
            return self._input_scale(side, names, node.inputs[0], scales)
        if node.op_type == "Concat":
            parts = []
            for read in node.inputs:
                scale = self._input_scale(side, names, read, scales)
                if scale is None:
                    return None
                parts.append(np.broadcast_to(scale, read.shape[1]))
            return np.concatenate(parts)
        return None

    def _offsets(self, index: int) -> dict[str, Array]:
        side, names = self.sides[index], self.names[index]
        found = {names[m.trunk]: m.center for m in side.modulators if m.trunk in names}
        for name, (kind, value) in self.layers[index].items():
            if kind == "Add":
                one, other = (names.get(unconverted(v)) for v in value.producer().inputs)
                for trunk, rest in ((one, other), (other, one)):
                    if (
                        trunk in found
                        and rest is not None
                        and rest not in found
                        and name not in found
                    ):
                        found[rest] = -found[trunk]
                        break
        return found


def _chain(value, side):
    """conv result -> (end of chain, conv that reads it)"""

    def only(v, op):
        # sole consumer through conversions
        while True:
            uses = list(v.uses())
            if len(uses) != 1 or v.is_graph_output():
                return None
            node = uses[0][0]
            if node.op_type in ("Cast", "QuantizeLinear", "DequantizeLinear"):
                v = node.outputs[0]
                continue
            return node

    relu = only(value, "Relu")
    if relu is None or relu.op_type != "Relu":
        return None, None
    last = relu.outputs[0]
    reader = only(last, None)
    if (
        reader is not None
        and reader.op_type == "Add"
        and any(side.constant(v) is not None for v in reader.inputs)
    ):
        last = reader.outputs[0]
        reader = only(last, None)
    if reader is None or reader.op_type != "Conv":
        return None, None
    return last, reader


def _ratio(reference: Array, candidate: Array) -> Array | None:
    """Least squares ratio by row."""
    if reference.shape != candidate.shape:
        return None
    with np.errstate(all="ignore"):
        ratio = (reference * candidate).sum(axis=1) / (reference**2).sum(axis=1)
        rest = np.linalg.norm(candidate - ratio[:, None] * reference, axis=1) / np.linalg.norm(
            candidate, axis=1
        )
    if not np.nanmedian(rest) < _FITS:
        return None
    return ratio


def _trunk_scale(metadata: Mapping[str, str]) -> float:
    scales = json.loads(metadata.get("adadm.quantization", "{}")).get("factor_scales", ())
    return max(scales, key=lambda s: abs(np.log(s)), default=1.0)


def _spread(values: Array) -> Array:
    return values.astype(np.float32).reshape(1, -1, 1, 1)
