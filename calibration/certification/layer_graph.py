"""A model as a graph that runs in pieces, from layer to layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.utils
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.export.assembly import inline
from adadm.export.passes.channels import constant_of
from adadm.export.passes.collapse_linear_tail import is_border_strip
from adadm.export.passes.folding import produced_by
from adadm.runtime.onnxruntime_session import OnnxRuntimeSession

__all__ = ["MODULATOR", "LayerGraph", "Modulator", "Piece", "unconverted"]

Array = npt.NDArray[Any]

MODULATOR, _IMAGE = "AdaDMModulate", "Image"
_LAYERS = ("Add", "BatchNormalization", "Conv")
_CONVERSIONS = ("Cast", "CastLike", "DequantizeLinear", "Identity", "QuantizeLinear")
_IMAGE_RANK = 4


@dataclass(frozen=True)
class Modulator:
    """An inlined modulator: `result = trunk + residual * factor`, shifted or not.

    Attributes:
        center: what the trunk is shifted by, (C,) or 0.
        inner: the nodes that compute the result.
    """

    trunk: ir.Value
    residual: ir.Value
    result: ir.Value
    center: Array
    inner: frozenset[ir.Node]


@dataclass(frozen=True)
class Piece:
    """The part of a graph that computes a layer from the layers before it.

    Attributes:
        sources: the names under which it reads what; its feed has others.
        op_types: of its nodes.
        halves: whether something is rounded to half precision.
        scale: of the QuantizeLinear before a convolution; None without.
    """

    sources: tuple[str, ...]
    halves: bool
    scale: float | None
    _session: OnnxRuntimeSession
    _feed: tuple[str, ...]

    def run(self, values: Mapping[str, Array]) -> tuple[Array, float]:
        """The layer, and the largest magnitude that is quantized before it, 0 without.

        Args:
            values: by the names of the sources.
        """
        feed = {name: values[key] for key, name in zip(self.sources, self._feed, strict=True)}
        result, *quantized = self._session.run(feed).values()
        return result, max((float(np.abs(value).max()) for value in quantized), default=0.0)


class LayerGraph:
    """A model for whole images, with its functions inlined.

    Attributes:
        metadata: of the model.
        input: the name of what it reads.
        image: what it returns, before a conversion to 8 bits.
        modulators: in graph order.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        model: ir.Model = ir.from_proto(proto)
        inline(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.ShapeInferencePass()(model)
        self.metadata = dict(model.metadata_props)
        self._graph = model.graph
        self._extractor = onnx.utils.Extractor(ir.to_proto(model))
        self._constant = set(model.graph.initializers.values())
        for node in model.graph:
            if node.inputs and all(value in self._constant for value in node.inputs if value):
                self._constant.update(node.outputs)
        self.modulators = list(self._find_modulators())
        self.input = str(model.graph.inputs[0].name)
        returned = model.graph.outputs[0]
        before = {v.name: v for n in model.graph for v in n.outputs}.get(f"{returned.name}.float32")
        self.image: ir.Value = before or returned

    def layers(self) -> dict[str, tuple[str, ir.Value]]:
        """Kinds and results of what can be compared, by name, in graph order.

        Convolutions, but for the strips of a collapsed tail; normalizations; sums, but for what is
        only a part of another; modulators; and the image.
        """
        modulated = {modulator.result for modulator in self.modulators}
        inner = {node for modulator in self.modulators for node in modulator.inner}
        found = {}
        for node in self._graph:
            value = node.outputs[0]
            if value is self.image:
                found["sr"] = _IMAGE, value
            elif value in modulated:
                found[str(value.name)] = MODULATOR, value
            elif (
                node.op_type in _LAYERS
                and node not in inner
                and not is_border_strip(node)
                and value.shape is not None
                and len(value.shape) == _IMAGE_RANK
                and (node.op_type != "Add" or [n.op_type for n in value.consumers()] != ["Add"])
            ):
                found[str(value.name)] = node.op_type, value
        return found

    def piece(self, value: ir.Value, known: Mapping[ir.Value, str]) -> Piece:
        """The part that computes a layer.

        Args:
            known: the layers before it, by name.
        """
        found: dict[ir.Value, str] = {}
        nodes: dict[ir.Node, None] = {}
        waiting = [value]
        while waiting:
            current = waiting.pop()
            producer = current.producer()
            if current in known:
                found[current] = known[current]
            elif current.is_graph_input():
                found[current] = self.input
            elif producer is not None and producer not in nodes:
                nodes[producer] = None
                waiting += [read for read in producer.inputs if read is not None]
        quantize = _quantizer(value)
        scale = None if quantize is None else float(self.constant(quantize.inputs[1]).item())
        quantized = [] if quantize is None else quantize.inputs[:1]
        half = ir.DataType.FLOAT16
        return Piece(
            sources=tuple(found.values()),
            halves=any(v.dtype == half for node in nodes for v in node.outputs),
            scale=scale,
            _session=self._opened([*found], [value, *quantized]),
            _feed=tuple(str(source.name) for source in found),
        )

    def constant(self, value: ir.Value | None) -> Array | None:
        """What does not depend on the input, such as dequantized weights; None for what does."""
        if value is None or value not in self._constant:
            return None
        known = constant_of(value)
        if known is None:
            (known,) = self._opened([], [value]).run({}).values()
        return known

    def scaled_by(self, node: ir.Node) -> Array | None:
        """The factors (C,) of a product with one factor a channel."""
        for value in node.inputs if node.op_type == "Mul" else ():
            factor = self.constant(value)
            if factor is not None and factor.ndim == _IMAGE_RANK and factor.size > 1:
                return factor.reshape(-1)
        return None

    def _opened(self, inputs: list[ir.Value], outputs: list[ir.Value | None]) -> OnnxRuntimeSession:
        sides = [[str(value.name) for value in side if value] for side in (inputs, outputs)]
        return OnnxRuntimeSession(self._extractor.extract_model(*sides).SerializeToString())

    def _find_modulators(self) -> Iterator[Modulator]:
        for node in self._graph:
            for index in range(2 * (node.op_type == "Add")):
                product = produced_by(unconverted(node.inputs[index]), "Mul")
                for which in range(2 if product is not None else 0):
                    exponential = _exponential(product.inputs[which])
                    if exponential is not None:
                        yield self._modulator(node, 1 - index, product, 1 - which, exponential)

    def _modulator(
        self, add: ir.Node, other: int, product: ir.Node, residual: int, exponential: ir.Node
    ) -> Modulator:
        trunk, inner = unconverted(add.inputs[other]), {add, product}
        moved = produced_by(trunk, "Add")
        if moved is not None:
            for index in range(2):
                if self.constant(moved.inputs[1 - index]) is not None:
                    trunk = unconverted(moved.inputs[index])
                    inner.add(moved)
        center: Array = np.zeros(1)
        waiting = [exponential]
        while waiting:
            node = waiting.pop()
            inner.add(node)
            for value in node.inputs:
                known = self.constant(value)
                if known is not None and known.ndim == _IMAGE_RANK and known.size > 1:
                    center = known.reshape(-1)
                producer = value.producer() if value is not None else None
                if known is None and unconverted(value) is not trunk and producer is not None:
                    waiting.append(producer)
        return Modulator(
            trunk, unconverted(product.inputs[residual]), add.outputs[0], center, frozenset(inner)
        )


def unconverted(value: ir.Value | None) -> ir.Value | None:
    """What a value was before conversions between types."""
    while value is not None and (node := value.producer()) and node.op_type in _CONVERSIONS:
        value = node.inputs[0]
    return value


def _exponential(value: ir.Value | None) -> ir.Node | None:
    """What computes a factor, before the choice for a std of 0 and conversions."""
    while (value := unconverted(value)) and (choice := produced_by(value, "Where")):
        value = choice.inputs[1]
    return produced_by(value, "Exp")


def _quantizer(value: ir.Value) -> ir.Node | None:
    """The QuantizeLinear through which a convolution reads, if it does."""
    convolution = produced_by(value, "Conv")
    value = convolution.inputs[0] if convolution is not None else None
    while value is not None and (node := value.producer()) and node.op_type in _CONVERSIONS:
        if node.op_type == "QuantizeLinear":
            return node
        value = node.inputs[0]
    return None
