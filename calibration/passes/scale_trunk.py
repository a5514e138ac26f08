"""Scale the trunk of an AdaDM network by a power of two: another range, the same function."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.export.graph.channels import (
    Affine,
    affine_of_batch_norm,
    bias_of,
    check_shift_of,
    input_leaves,
    map_channels,
    scale_inputs,
    scale_outputs,
)
from adadm.export.graph.rewriting import (
    NotFoldable,
    constant_of,
    constant_values,
    is_batch_norm,
    is_op,
    label,
    producer_of,
    replace_initializer,
)
from adadm.export.operators import DOMAIN
from adadm.export.operators.modulator import is_modulator, modulators
from adadm.export.operators.sparse_attention import ATTENTION_ROUND
from adadm.export.passes.folding import Decision

Edit = Callable[[], None]

_HOMOGENEOUS = ("LeakyRelu", "Relu", "Slice")

_logger = logging.getLogger(__name__)


class ScaleTrunk(ir.passes.InPlacePass):
    """Multiply the trunk by `k = 2**exponent`, and adapt everything that depends on it.

    Pattern: inputs and results of modulators, and from there on both operands and the result of an
    Add, input and result of a ReLU or a Slice, one operand and the result of a Mul, the values and
    the result of an attention round; up to the surrounding convolutions and normalizations.

    Algebra: a convolution with a scaled result absorbs `k` in its rows and its bias. A convolution
    that reads scaled values, directly or through Concat, absorbs `1 / k` in the weights of these
    input channels. A BatchNormalization that reads them takes `k mean`, `k**2 variance`,
    `k**2 epsilon`. A modulator takes `k center` and `k delta`; since `std(k x) = k std(x)` and its
    factor must become `k` times as large, its bias becomes `b + (1 - w) ln k`, and its limit is
    multiplied by `k`. If the residual `r` is scaled, `ln k` is subtracted from the bias.

    Exact when: always, except for the rounding of a modulator's bias to float32. The other
    parameters keep their digits, since `k` is a power of two.

    Left alone when: another operator computes or reads a value to be scaled; a parameter is not
    constant; the factor of a modulator is an output of the graph.

    Args:
        exponent: exponent of two, negative to make the trunk smaller.
        values: names of values to start from in place of the trunk, such as a value between the
            convolutions of a residual branch.

    Attributes:
        decision: result of the last call, or the reason why the graph was left alone.
        factor_scales: multiplier of each modulator's factor, in graph order.
    """

    form = "scaled"

    def __init__(self, exponent: int, values: Collection[str] = ()) -> None:
        self.factor = 2.0**exponent
        self.values = frozenset(values)
        self.decision: Decision | None = None
        self.factor_scales: list[float] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        name = ", ".join(sorted(self.values)) or "trunk"
        try:
            region = _Region(self._seeds(model.graph), self.factor)
            edits = list(region.edits())
        except NotFoldable as reason:
            _logger.debug("%s left %s alone: %s", type(self).__name__, name, reason)
            self.decision = Decision(name, None, str(reason))
            return ir.passes.PassResult(model, modified=False)
        self.factor_scales = [region.factor_scale(node) for node in modulators(model.graph)]
        for edit in edits:
            edit()
        # Convolutions that shared weights, like the strips of a collapsed tail, now have copies.
        common.DeduplicateInitializersPass(size_limit=sys.maxsize)(model)
        self.decision = Decision(name, self.form)
        return ir.passes.PassResult(model, modified=True)

    def _seeds(self, graph: ir.Graph) -> Iterator[ir.Value]:
        if not self.values:
            trunks = [node.inputs[0] for node in modulators(graph)]
            if not trunks:
                raise NotFoldable("the graph has no modulator")
            yield from (trunk for trunk in trunks if trunk is not None)
        values = {value.name: value for node in graph for value in node.outputs}
        for name in self.values:
            if name not in values:
                raise NotFoldable(f"no node computes {name}")
            yield values[name]


class _Region:
    """The values that are scaled together.

    Raises:
        NotFoldable: a value cannot be scaled; nothing has been changed.
    """

    def __init__(self, seeds: Iterable[ir.Value], factor: float) -> None:
        self.factor = factor
        self.values: dict[ir.Value, None] = {}  # in the order in which they were found
        self._grow(seeds)
        while (product := self._undecided_product()) is not None:
            self._choose_factor(product)

    def edits(self) -> Iterator[Edit]:
        """Edits of all nodes that compute or read the values."""
        touched: dict[ir.Node, None] = {}
        for value in self.values:
            producer = producer_of(value)
            if is_op(producer, "Conv"):
                yield functools.partial(
                    scale_outputs, producer, self._affine(bias_of(producer).size)
                )
            else:
                yield functools.partial(map_channels, value, self._affine(1))
            touched[producer] = None
            for reader, index in value.uses():
                touched[reader] = None
                if is_op(reader, "Conv", "Concat"):
                    shrunk = np.full(_channels(value), 1 / self.factor)
                    for leaf in input_leaves(value, reader, index):
                        yield functools.partial(scale_inputs, leaf, shrunk)
        for node in touched:
            if is_modulator(node):
                yield functools.partial(self._scale_modulator, node)
            elif is_batch_norm(node):
                affine_of_batch_norm(node)
                yield functools.partial(self._scale_statistics, node)
            elif is_op(node, "Add"):
                for index, operand in enumerate(node.inputs):
                    if constant_of(operand) is not None:
                        yield functools.partial(self._scale_constant, node, index, self.factor)

    def _grow(self, values: Iterable[ir.Value]) -> None:
        waiting = list(values)
        while waiting:
            value = waiting.pop(0)
            if value in self.values or constant_of(value) is not None:
                continue
            if value.is_graph_output():
                raise NotFoldable(f"{value.name} is a graph output")
            _channels(value)
            self.values[value] = None
            waiting += self._sources(value)
            for reader, index in value.uses():
                waiting += self._results(value, reader, index)

    def _sources(self, value: ir.Value) -> Sequence[ir.Value]:
        """Inputs of the node of `value` that must be scaled so that `value` is."""
        node = value.producer()
        if is_op(node, "Conv"):
            bias_of(node)
            return ()
        if is_modulator(node):
            _check(node)
        if is_modulator(node) or is_op(node, *_HOMOGENEOUS):
            return _present(node.inputs[:1])
        if is_op(node, "Add"):
            return _present(node.inputs)
        if is_op(node, "Mul"):
            return ()  # _choose_factor() picks one of its operands
        if node is not None and _attends(node) and value.index() == 0:
            return _present(node.inputs[1:2])
        origin = f"{node.op_type} {label(node)}" if node is not None else f"{value.name}, an input"
        raise NotFoldable(f"it comes from {origin}, which cannot be scaled")

    def _results(self, value: ir.Value, reader: ir.Node, index: int) -> Sequence[ir.Value]:
        """Results of a reader that are scaled if `value` is."""
        if is_modulator(reader):
            _check(reader)
            return reader.outputs[:1] if index == 0 else ()
        if is_op(reader, "Add", "Mul", *_HOMOGENEOUS):
            return reader.outputs
        if _attends(reader) and index == 1:
            return reader.outputs[:1]
        if is_batch_norm(reader) and index == 0:
            affine_of_batch_norm(reader)
            return ()
        input_leaves(value, reader, index)
        return ()

    def _undecided_product(self) -> ir.Node | None:
        """A scaled product without a scaled operand yet."""
        for value in self.values:
            node = value.producer()
            if is_op(node, "Mul"):
                scaled = [operand in self.values for operand in node.inputs]
                if all(scaled):
                    raise NotFoldable(f"both operands of Mul {label(node)} would be scaled")
                if not any(scaled):
                    return node
        return None

    def _choose_factor(self, product: ir.Node) -> None:
        before = dict(self.values)
        for operand in reversed(_present(product.inputs)):
            if constant_of(operand) is None:
                try:
                    self._grow([operand])
                except NotFoldable:
                    self.values = dict(before)
                else:
                    return
        raise NotFoldable(f"no operand of Mul {label(product)} can be scaled")

    def _affine(self, channels: int) -> Affine:
        return Affine(np.full(channels, self.factor), np.zeros(channels))

    def factor_scale(self, modulator: ir.Node) -> float:
        """Multiplier of a modulator's factor that makes its result scaled."""
        trunk, residual = (value in self.values for value in modulator.inputs[:2])
        return self.factor ** (trunk - residual)

    def _scale_modulator(self, node: ir.Node) -> None:
        trunk, residual = (value in self.values for value in node.inputs[:2])
        weight, bias = (node.attributes[name].as_float() for name in ("weight", "bias"))
        times = (1 - weight) * trunk - residual
        node.attributes["bias"] = ir.AttrFloat32("bias", bias + times * math.log(self.factor))
        if trunk and "limit" in node.attributes:
            limit = node.attributes["limit"].as_float() * self.factor
            node.attributes["limit"] = ir.AttrFloat32("limit", limit)
        for index in range(2, len(node.inputs)) if trunk else ():
            self._scale_constant(node, index, self.factor)

    def _scale_statistics(self, norm: ir.Node) -> None:
        self._scale_constant(norm, 3, self.factor)
        self._scale_constant(norm, 4, self.factor**2)
        epsilon = norm.attributes.get_float("epsilon", 1e-5)
        norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon * self.factor**2)

    def _scale_constant(self, node: ir.Node, index: int, factor: float) -> None:
        replace_initializer(node, index, constant_values(node.inputs[index]) * factor)


def _attends(node: ir.Node) -> bool:
    return node.op_type == ATTENTION_ROUND and node.domain == DOMAIN


def _present(values: Sequence[ir.Value | None]) -> list[ir.Value]:
    return [value for value in values if value is not None]


def _channels(value: ir.Value) -> int:
    channels = value.shape[1] if value.shape is not None and len(value.shape) > 1 else None
    if not isinstance(channels, int):
        raise NotFoldable(f"the channels of {value.name} are unknown")
    return channels


def _check(modulator: ir.Node) -> None:
    """Refuse a modulator whose parameters or results the pass must not change."""
    check_shift_of(modulator)
    if len(modulator.outputs) > 1:
        raise NotFoldable(f"the factor of {label(modulator)} is an output")
