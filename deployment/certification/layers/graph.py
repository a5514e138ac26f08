"""A model as a graph that runs in pieces, from layer to layer."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.utils
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.export.graph.channels import constant_of
from adadm.export.graph.rewriting import produced_by
from adadm.export.passes import InlineFunctions
from adadm.export.passes.collapse_linear_tail import is_border_strip
from adadm.runtime.errors import CalibrationError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

__all__ = ["ADD", "CONV", "IMAGE", "MODULATOR", "InlinedModulator", "LayerGraph", "unconverted"]

Array = npt.NDArray[Any]

ADD, CONV, IMAGE, MODULATOR = "Add", "Conv", "Image", "AdaDMModulate"
"""Kinds of layers, besides others that are called as their operators are."""

_LAYERS = (ADD, "BatchNormalization", CONV)
_QUANTIZE = "QuantizeLinear"
_CONVERSIONS = ("Cast", "CastLike", "DequantizeLinear", "Identity", _QUANTIZE)
_RANK = 4


@dataclass(frozen=True)
class InlinedModulator:
    """An inlined modulator: `result = trunk + residual * factor`, shifted or not.

    Attributes:
        center: what the trunk is shifted by, (C,), or 0.
        inner: the nodes that compute the result.
    """

    trunk: ir.Value
    residual: ir.Value
    result: ir.Value
    center: Array
    inner: frozenset[ir.Node]


class LayerGraph:
    """A model for whole images, with its functions inlined.

    Attributes:
        metadata: of the model.
        input: the name of what it reads.
        modulators: in graph order.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        model: ir.Model = ir.from_proto(proto)
        InlineFunctions()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.ShapeInferencePass()(model)
        self.metadata = ModelMetadata.from_props(model.metadata_props)
        self._graph = model.graph
        self._extractor = onnx.utils.Extractor(ir.to_proto(model))
        self._constants = set(model.graph.initializers.values())
        for node in model.graph:
            if node.inputs and all(value in self._constants for value in node.inputs if value):
                self._constants.update(node.outputs)
        self.modulators = list(self._find_modulators())
        self.input = str(model.graph.inputs[0].name)

    @functools.cached_property
    def _computed(self) -> dict[ir.Value, Array]:
        """The constants that nodes compute and others read, all at once."""
        wanted = [
            value
            for node in self._graph
            if node.outputs[0] not in self._constants
            for value in dict.fromkeys(node.inputs)
            if value in self._constants and value.producer() is not None
        ]
        with self.opened([], dict.fromkeys(wanted)) as session:
            return dict(zip(dict.fromkeys(wanted), session.run({}).values(), strict=True))

    @functools.cached_property
    def layers(self) -> dict[str, tuple[str, ir.Value]]:
        """Kinds and results of what can be compared, by name, in graph order.

        Convolutions, but for the strips of a collapsed tail; normalizations; sums, but for what is
        only a part of another; modulators; and the image, before a conversion to 8 bits.
        """
        image = self._image()
        modulated = {modulator.result for modulator in self.modulators}
        inner = {node for modulator in self.modulators for node in modulator.inner}
        found = {}
        for node in self._graph:
            value, kind = node.outputs[0], node.op_type
            if value is image:
                found["sr"] = IMAGE, value
            elif value in modulated:
                found[str(value.name)] = MODULATOR, value
            elif (
                kind in _LAYERS
                and node not in inner
                and not is_border_strip(node)
                and value.shape is not None
                and len(value.shape) == _RANK
                and isinstance(value.shape[1], int)
                and (kind != ADD or [reader.op_type for reader in value.consumers()] != [ADD])
            ):
                found[str(value.name)] = kind, value
        return found

    def between(
        self, value: ir.Value, known: Mapping[ir.Value, str]
    ) -> tuple[dict[ir.Value, str], set[ir.Node]]:
        """From which layers, and the input, a value is computed, and by which nodes.

        Args:
            known: layers, and their names.

        Raises:
            CalibrationError: it depends on an input that is no image.
        """
        read: dict[ir.Value, str] = {}
        nodes: set[ir.Node] = set()
        waiting = [value]
        while waiting:
            current = waiting.pop()
            producer = current.producer()
            if current in known:
                read[current] = known[current]
            elif current.is_graph_input():
                read[current] = self._only_input(current)
            elif producer is not None and producer not in nodes:
                nodes.add(producer)
                waiting += [v for v in producer.inputs if v is not None]
        return read, nodes

    def opened(
        self, inputs: Iterable[ir.Value | None], outputs: Iterable[ir.Value | None]
    ) -> OnnxRuntimeSession:
        """The part of the graph between some values."""
        names = [[str(value.name) for value in side if value] for side in (inputs, outputs)]
        return OnnxRuntimeSession(self._extractor.extract_model(*names).SerializeToString())

    def quantizer(self, value: ir.Value) -> ir.Node | None:
        """The QuantizeLinear through which the convolution that computes a value reads."""
        convolution = produced_by(value, CONV)
        read = convolution.inputs[0] if convolution is not None else None
        while read is not None and (node := read.producer()) and node.op_type in _CONVERSIONS:
            if node.op_type == _QUANTIZE:
                return node
            read = node.inputs[0]
        return None

    def quantizes(self, node: ir.Node) -> bool:
        """Whether a node rounds what depends on the input to INT8."""
        return node.op_type == _QUANTIZE and node.inputs[0] not in self._constants

    def constant(self, value: ir.Value | None) -> Array | None:
        """What does not depend on the input, such as dequantized weights; None for what does."""
        if value is None or value not in self._constants:
            return None
        known: Array | None = constant_of(value)
        return self._computed[value] if known is None else known

    def by_channel(self, node: ir.Node | None, op_type: str) -> tuple[ir.Value, Array] | None:
        """What an Add or a Mul combines with one constant a channel, and the constants (C,)."""
        for index in range(2 if node is not None and node.op_type == op_type else 0):
            assert node is not None
            value, constants = node.inputs[index], self.constant(node.inputs[1 - index])
            if value is not None and constants is not None and constants.ndim == _RANK:
                return value, constants.reshape(-1)
        return None

    def _only_input(self, value: ir.Value) -> str:
        if value.name != self.input:
            raise CalibrationError(
                f"the model reads {value.name} besides the image {self.input}, so that its layers "
                "cannot be compared; give the model for whole images"
            )
        return self.input

    def _image(self) -> ir.Value:
        """What the model returns, before a conversion to 8 bits (`BakeImageIO`)."""
        returned = self._graph.outputs[0]
        computed = (value for node in self._graph for value in node.outputs)
        return next((v for v in computed if v.name == f"{returned.name}.float32"), returned)

    def _find_modulators(self) -> Iterator[InlinedModulator]:
        for add in self._graph:
            for index in range(2 if add.op_type == ADD else 0):
                summand = add.inputs[index]
                product = produced_by(unconverted(summand), "Mul") if summand is not None else None
                for factor in range(2 if product is not None else 0):
                    assert product is not None
                    exponential = _exponential(product.inputs[factor])
                    trunk, residual = add.inputs[1 - index], product.inputs[1 - factor]
                    if exponential is not None and trunk is not None and residual is not None:
                        inner = {add, product}
                        yield self._modulator(trunk, residual, add.outputs[0], exponential, inner)

    def _modulator(
        self,
        trunk: ir.Value,
        residual: ir.Value,
        result: ir.Value,
        exponential: ir.Node,
        inner: set[ir.Node],
    ) -> InlinedModulator:
        trunk = unconverted(trunk)
        moved = trunk.producer()
        if moved is not None and (summed := self.by_channel(moved, ADD)) is not None:
            trunk = unconverted(summed[0])
            inner.add(moved)
        center: Array = np.zeros(1)
        waiting = [exponential]
        while waiting:
            node = waiting.pop()
            inner.add(node)
            for value in node.inputs:
                constant, producer = self.constant(value), value.producer() if value else None
                if constant is not None:
                    if constant.ndim == _RANK and constant.size > 1:  # else it is its mean
                        center = constant.reshape(-1)
                elif value is not None and producer is not None and unconverted(value) is not trunk:
                    waiting.append(producer)
        return InlinedModulator(trunk, unconverted(residual), result, center, frozenset(inner))


def unconverted(value: ir.Value) -> ir.Value:
    """What a value was before conversions between types."""
    while (node := value.producer()) and node.op_type in _CONVERSIONS and node.inputs[0]:
        value = node.inputs[0]
    return value


def _exponential(value: ir.Value | None) -> ir.Node | None:
    """What computes a factor, before the choice for a std of 0 and conversions."""
    while value is not None and (choice := produced_by(unconverted(value), "Where")):
        value = choice.inputs[1]
    return produced_by(unconverted(value), "Exp") if value is not None else None
