"""Compare a deployed model with its reference, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from adadm.calibration.passes.quantize_convolutions import LARGEST_LEVEL
from adadm.deployment.certification.layers.channel_map import ChannelMap
from adadm.deployment.certification.layers.divergence import (
    Divergence,
    LayerResult,
    first_divergence,
)
from adadm.deployment.certification.layers.errors import LayerErrors
from adadm.deployment.certification.layers.graph import LayerGraph
from adadm.deployment.certification.layers.subgraph import LayerSubgraph
from adadm.deployment.certification.running import feed_of
from adadm.export.graph.channel_maps import read_channel_maps
from adadm.export.graph.channels import Affine
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import Batch

Array = npt.NDArray[Any]

_WHITE = 255


@dataclass(frozen=True)
class LayerComparison:
    """Result of `compare_layers`.

    Attributes:
        layers: results in the order of the reference.
        left_out: names of layers of the reference that the candidate lacks.
        first_divergence: first layer that is wrong by itself; None if all are healthy.
        is_mapped: True if both models record intentional changes of their channels. Otherwise
            channels are compared as they are, and such changes look wrong.
    """

    layers: tuple[LayerResult, ...]
    left_out: tuple[str, ...]
    first_divergence: Divergence | None
    is_mapped: bool


def compare_layers(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, feeds: Sequence[Batch]
) -> LayerComparison:
    """Compare each layer that both models have, by name and kind.

    Errors accumulate: in INT8 the middle of a healthy model is far off. So each layer of the
    candidate also runs alone, on the reference's values of its inputs; the error is then its own.
    Both models run in pieces, layer by layer, and keep only values that later layers read: some ten
    tensors for each feed.

    Args:
        reference: float32 graph of the same network. Fewer layers match if its form differs from
            the candidate's (`Options`).
        candidate: the device's computation as a float32 graph (`TargetModel.evaluated`).
        feeds: at least one batch (1, 3, H, W) in 0..rgb_range.

    Raises:
        CalibrationError: a model has inputs besides an image, or metadata of another graph.
        SessionError: a feed does not fit the model.
    """
    graphs = LayerGraph(reference), LayerGraph(candidate)
    one, other = graphs
    maps = [known for side in graphs if (known := read_channel_maps(side.metadata)) is not None]
    is_mapped = len(maps) == len(graphs)
    layers = _layers(one, other, maps if is_mapped else [{}, {}])
    images = [_LayerOutputs.of(lr, one, other) for lr in feeds]
    for layer in layers:
        with layer.reference, layer.candidate:
            for image in images:
                _run(layer, image)
    to_levels = _WHITE / one.metadata.network.rgb_range
    results = tuple(
        _result(layer, one, to_levels if layer.name in one.makers else None) for layer in layers
    )
    compared = {layer.name for layer in layers}
    left_out = tuple(name for name in one.layers if name not in compared)
    return LayerComparison(results, left_out, first_divergence(results), is_mapped)


@dataclass
class _Layer:
    """A layer of both models, and its errors.

    Attributes:
        reference, candidate: sub-graphs that compute it.
        last_read: names of values that no later layer reads.
        accumulated, isolated, unrounded: error of the whole candidate, of this layer alone, and of
            this layer alone without the rounding of its input to INT8.
        largest_read: largest magnitude at its INT8 input when it runs alone.
    """

    name: str
    unit: ChannelMap
    reference: LayerSubgraph
    candidate: LayerSubgraph
    last_read: frozenset[str] = frozenset()
    accumulated: LayerErrors = field(default_factory=LayerErrors)
    isolated: LayerErrors = field(default_factory=LayerErrors)
    unrounded: LayerErrors = field(default_factory=LayerErrors)
    largest_read: float = 0.0

    @property
    def sources(self) -> set[str]:
        return {*self.reference.sources, *self.candidate.sources}

    def count(self, errors: LayerErrors, expected: Array, found: Array, height: int) -> None:
        """Add the error of one image; `found` is in units of the candidate."""
        errors.add(expected, self.unit.to_reference(found, expected), height)


@dataclass
class _LayerOutputs:
    """Values of one image that later layers read, by name.

    Attributes:
        height: height of the image, px.
        expected: values of the reference.
        ideal: the same in the candidate's units, and the candidate's input.
        found: values of the candidate.
    """

    height: int
    expected: dict[str, Array]
    ideal: dict[str, Array]
    found: dict[str, Array]

    @classmethod
    def of(cls, lr: Batch, reference: LayerGraph, candidate: LayerGraph) -> _LayerOutputs:
        feeds = [feed_of(side.input, lr, side.metadata) for side in (reference, candidate)]
        return cls(lr.shape[2], feeds[0], dict(feeds[1]), feeds[1])


def _layers(
    reference: LayerGraph, candidate: LayerGraph, maps: Sequence[Mapping[str, Affine]]
) -> list[_Layer]:
    layers: list[_Layer] = []
    known: tuple[dict[ir.Value, str], dict[ir.Value, str]] = ({}, {})
    for name, (kind, expected) in reference.layers.items():
        other_kind, found = candidate.layers.get(name, (None, expected))
        units = [trained.get(name) for trained in maps]
        for noted in units:
            _check_channels(name, noted, expected)
        unit = ChannelMap.between(*units)
        if other_kind == kind:
            one = LayerSubgraph(reference, expected, known[0])
            other = LayerSubgraph(candidate, found, known[1])
            layers.append(_Layer(name, unit, one, other))
            known[0][expected] = known[1][found] = name
    read: set[str] = set()
    for layer in reversed(layers):
        layer.last_read = frozenset({layer.name, *layer.sources} - read)
        read |= layer.sources
    return layers


def _check_channels(name: str, unit: Affine | None, value: ir.Value) -> None:
    lengths = {unit.scale.size, unit.shift.size} - {1} if unit else set()
    channels = value.shape[1] if value.shape else None
    if lengths - {channels}:
        raise CalibrationError(
            f"the metadata maps {max(lengths)} channels of {name}, which has {channels}; export "
            "the model again"
        )


def _run(layer: _Layer, image: _LayerOutputs) -> None:
    """Run a layer of both models, and the candidate's layer alone."""
    name, piece = layer.name, layer.candidate
    expected, _ = layer.reference.run(image.expected)
    found, _ = piece.run(image.found)
    layer.count(layer.accumulated, expected, found, image.height)
    alone, arriving = piece.run(image.ideal)
    layer.count(layer.isolated, expected, alone, image.height)
    if arriving is not None:
        layer.largest_read = max(layer.largest_read, float(np.abs(arriving).max()))
        layer.count(layer.unrounded, expected, piece.run_unrounded(arriving), image.height)
    image.expected[name], image.found[name] = expected, found
    image.ideal[name] = layer.unit.to_candidate(expected)
    for values in (image.expected, image.ideal, image.found):
        for done in layer.last_read & values.keys():
            del values[done]


def _result(layer: _Layer, reference: LayerGraph, to_levels: float | None) -> LayerResult:
    scale = layer.candidate.scale
    own = layer.isolated if scale is None else layer.unrounded
    return LayerResult(
        name=layer.name,
        kind=reference.layers[layer.name][0],
        block=reference.blocks.get(layer.name),
        precision=layer.candidate.precision,
        snr_db=layer.accumulated.snr_db,
        isolated_db=layer.isolated.snr_db,
        parameters_db=own.snr_db,
        border_db=own.border_db,
        interior_db=own.interior_db,
        gain=own.gain,
        largest_shift=own.relative_shift,
        shifted_channel=own.shifted_channel,
        shifted_levels=None if to_levels is None else own.largest_shift * to_levels,
        range_use=None if scale is None else layer.largest_read / (LARGEST_LEVEL * scale),
    )
