"""Split a model's graph into layers that run separately."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping

import onnx
import onnx.utils
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.calibration.passes.lower_to_half import MOVES
from adadm.export.graph.rewriting import produced_by
from adadm.export.operators.modulator import CONVERSIONS, find_inlined
from adadm.export.passes import InlineFunctions
from adadm.export.passes.collapse_linear_tail import is_border_strip
from adadm.runtime.errors import CalibrationError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

_ADD, CONV, _IMAGE, MODULATOR = "Add", "Conv", "Image", "AdaDMModulate"
"""Kinds of layers; all other kinds have the name of their operator."""

_LAYERS = (_ADD, "BatchNormalization", CONV)
_QUANTIZE = "QuantizeLinear"
_RANK = 4


class LayerGraph:
    """A model for whole images, with its functions inlined.

    Attributes:
        metadata: metadata of the model.
        input: name of its input.
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
        self._modulators = find_inlined(model.graph)
        self.input = str(model.graph.inputs[0].name)

    @functools.cached_property
    def layers(self) -> dict[str, tuple[str, ir.Value]]:
        """Kinds and results of layers that can be compared, by name, in graph order.

        These are convolutions except the strips of a collapsed tail; normalizations; sums except
        partial sums; modulators; and the image, before a conversion to 8 bits.
        """
        image = self._image()
        modulated = {modulator.result for modulator in self._modulators}
        inner = {node for modulator in self._modulators for node in modulator.inner}
        layers = {}
        for node in self._graph:
            value, kind = node.outputs[0], node.op_type
            if value is image:
                layers["sr"] = _IMAGE, value
            elif value in modulated:
                layers[str(value.name)] = MODULATOR, value
            elif (
                kind in _LAYERS
                and node not in inner
                and not is_border_strip(node)
                and value.shape is not None
                and len(value.shape) == _RANK
                and isinstance(value.shape[1], int)
                and (kind != _ADD or [reader.op_type for reader in value.consumers()] != [_ADD])
            ):
                layers[str(value.name)] = kind, value
        return layers

    @functools.cached_property
    def blocks(self) -> dict[str, int]:
        """Index of the modulator of each layer: of those that compute its residual, and its own."""
        blocks: dict[str, int] = {}
        for index, modulator in enumerate(self._modulators):
            own = _upstream([modulator.residual, modulator.result], {modulator.trunk}.__contains__)
            for value in own:
                if value is not modulator.trunk and value in self._names:
                    blocks.setdefault(self._names[value], index)
        return blocks

    @functools.cached_property
    def makers(self) -> set[str]:
        """Names of layers whose values become pixels unchanged."""
        image = [value for value, name in self._names.items() if name == "sr"]
        made_of = _upstream(image, lambda value: not _moves(value.producer()))
        return {self._names[value] for value in made_of if value in self._names}

    def between(
        self, value: ir.Value, known: Mapping[ir.Value, str]
    ) -> tuple[dict[ir.Value, str], set[ir.Node]]:
        """Layers (or the input) from which a value is computed, and the nodes in between.

        Args:
            known: results of layers, and their names.

        Raises:
            CalibrationError: the value depends on an input that is not an image.
        """
        read: dict[ir.Value, str] = {}
        nodes: set[ir.Node] = set()
        for source in _upstream([value], known.__contains__):
            if source in known:
                read[source] = known[source]
            elif source.is_graph_input():
                read[source] = self._only_input(source)
            elif (producer := source.producer()) is not None:
                nodes.add(producer)
        return read, nodes

    def opened(
        self, inputs: Iterable[ir.Value | None], outputs: Iterable[ir.Value | None]
    ) -> OnnxRuntimeSession:
        """Open a session for the part of the graph between some values."""
        names = [[str(value.name) for value in side if value] for side in (inputs, outputs)]
        return OnnxRuntimeSession(self._extractor.extract_model(*names).SerializeToString())

    def quantizer(self, value: ir.Value) -> ir.Node | None:
        """The QuantizeLinear at the input of the convolution that computes a value, if any."""
        convolution = produced_by(value, CONV)
        read = convolution.inputs[0] if convolution is not None else None
        while read is not None and (node := read.producer()) and node.op_type in CONVERSIONS:
            if node.op_type == _QUANTIZE:
                return node
            read = node.inputs[0]
        return None

    def quantizes(self, node: ir.Node) -> bool:
        """True if a node rounds values that depend on the input to INT8."""
        return node.op_type == _QUANTIZE and node.inputs[0] not in self._constants

    @functools.cached_property
    def _names(self) -> dict[ir.Value, str]:
        return {value: name for name, (_, value) in self.layers.items()}

    def _only_input(self, value: ir.Value) -> str:
        if value.name != self.input:
            raise CalibrationError(
                f"the model reads {value.name} besides the image {self.input}, so that its layers "
                "cannot be compared; give the model for whole images"
            )
        return self.input

    def _image(self) -> ir.Value:
        """Output of the model before a conversion to 8 bits (`BakeImageIO`)."""
        returned = self._graph.outputs[0]
        computed = (value for node in self._graph for value in node.outputs)
        return next((v for v in computed if v.name == f"{returned.name}.float32"), returned)


def _upstream(values: Iterable[ir.Value], ends: Callable[[ir.Value], bool]) -> Iterator[ir.Value]:
    """Yield values and their sources, up to those for which `ends` is true."""
    seen: set[ir.Value] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if value not in seen:
            seen.add(value)
            yield value
            producer = None if ends(value) else value.producer()
            waiting += [v for v in producer.inputs if v is not None] if producer else []


def _moves(node: ir.Node | None) -> bool:
    return node is not None and node.op_type in (*MOVES, *CONVERSIONS)
