"""Choose INT8 ranges of convolutions from the statistics of their tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.calibration.passes import EqualizeChannels, QuantizeConvolutions
from adadm.calibration.passes.quantize_convolutions import half_scale
from adadm.calibration.ranges.tensor_statistics import TensorStatistics
from adadm.export.graph.channels import bias_of, weight_of
from adadm.export.graph.rewriting import NotFoldable, input_of, is_op, label, shape_of
from adadm.export.passes.collapse_linear_tail import is_border_strip

Array = npt.NDArray[np.float64]

COUNTED_AT = (1, 3, 270, 480)
_SHARE_OF_ACTIVATIONS = 0.95
"""Share of the unevenness of channels that moves from an input to the weights, 0..1."""
_TYPICAL_WEIGHT = 0.5
_IMAGE_RANK = 4
_INT8_CHANNELS = 32
"""Channels that TensorRT's INT8 formats hold together: others are filled up."""
_IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class ConvolutionRange:
    """Quantization of the input of one convolution.

    Attributes:
        equalizer: factor of each channel before quantization, (C,), above 0.
        scale: INT8 scale of the product, one for the whole tensor.
        mean: mean of the product, (C,).
    """

    equalizer: Array
    scale: float
    mean: Array


def choose_ranges(
    graph: ir.Graph, statistics: Mapping[str, TensorStatistics], wide: Collection[str] = ()
) -> dict[str, ConvolutionRange]:
    """Ranges of all convolutions that can be INT8, by name.

    A channel `c` is multiplied by `max|W_c|**0.05 / max|x_c|**0.95`. All channels then nearly fill
    the one scale of the tensor, at little cost to the weights, which have one scale an output
    channel. The scale holds the largest magnitude, so that nothing is clipped (compared in
    docs/explanation/quantization.md). Left out are the border strips of a collapsed tail,
    convolutions whose parameters are not constant or not two-dimensional, and those that read or
    return a value in `wide`.

    The idea of moving range between activations and weights: Xiao et al., "SmoothQuant", 2023.
    """
    ranges = {}
    for node in graph:
        if not is_op(node, "Conv") or is_border_strip(node):
            continue
        try:
            weight, _ = weight_of(node), bias_of(node)
        except NotFoldable:
            continue
        read, returned = input_of(node, 0).name, node.outputs[0].name
        if weight.ndim != _IMAGE_RANK or {read, returned} & set(wide):
            continue
        tensor = statistics.get(str(read))
        groups = node.attributes.get_int("group", 1)
        if tensor is None or tensor.largest.size != weight.shape[1] * groups:
            continue
        equalizer = _equalizer(weight, tensor.largest, groups)
        scale = float(half_scale(np.array((tensor.largest * equalizer).max())))
        ranges[label(node)] = ConvolutionRange(equalizer, scale, tensor.mean * equalizer)
    return ranges


def _equalizer(weight: Array, largest: Array, groups: int) -> Array:
    magnitude = np.abs(weight).max(axis=(2, 3))  # (M, C/group)
    by_channel = magnitude.reshape(groups, -1, magnitude.shape[1]).max(axis=1).ravel()
    alive = (largest > 0) & (by_channel > 0)
    if not alive.any():
        return np.ones(largest.size)
    factor = np.ones(largest.size)
    share = _SHARE_OF_ACTIVATIONS
    factor[alive] = by_channel[alive] ** (1 - share) / largest[alive] ** share
    factor[~alive] = factor[alive].min()  # channels with zero inputs or zero weights
    divided = magnitude / np.repeat(factor.reshape(groups, -1), len(weight) // groups, axis=0)
    rows = divided.max(axis=1)
    factor *= np.median(rows[rows > 0]) / _TYPICAL_WEIGHT  # far from both ends of float16
    return factor


def quantize_convolutions(
    model: ir.Model, ranges: Mapping[str, ConvolutionRange], chosen: Collection[str]
) -> None:
    """Give the chosen convolutions of a float32 graph INT8 inputs and weights, in place."""
    used = {name: int8 for name, int8 in ranges.items() if name in chosen}
    EqualizeChannels({name: int8.equalizer for name, int8 in used.items()})(model)
    QuantizeConvolutions(
        {name: int8.scale for name, int8 in used.items()},
        {name: int8.mean for name, int8 in used.items()},
    )(model)


def multiply_adds(model: ir.Model) -> dict[str, int]:
    """Multiply-adds of each convolution by name, for one 480x270 px input; no border strips."""
    counted = model.clone()
    for node in counted.graph:
        for value in node.outputs:
            value.shape = None
    lr = counted.graph.inputs[0]
    batch, channels, height, width = COUNTED_AT
    is_image = lr.dtype == ir.DataType.UINT8
    lr.shape = ir.Shape((batch, height, width, channels) if is_image else COUNTED_AT)
    common.ShapeInferencePass()(counted)
    counts = {}
    for node in counted.graph:
        if is_op(node, "Conv") and not is_border_strip(node):
            sizes = (*shape_of(node.outputs[0])[2:], *shape_of(node.inputs[1]))
            counts[label(node)] = math.prod(int(size) for size in sizes)
    return counts


def slow_channels(graph: ir.Graph) -> tuple[int, ...]:
    """Channel counts that convolutions read and TensorRT's INT8 formats fill up, sorted.

    The image's three are left out.
    """
    counts = set()
    for node in graph:
        if is_op(node, "Conv"):
            weight = input_of(node, 1)
            dequantized = weight.producer()
            if dequantized is not None and is_op(dequantized, "DequantizeLinear"):
                weight = input_of(dequantized, 0)
            groups = node.attributes.get_int("group", 1)
            sizes = shape_of(weight)
            if len(sizes) == _IMAGE_RANK and isinstance(channels := sizes[1], int):
                counts.add(channels * groups)
    return tuple(sorted(c for c in counts if c % _INT8_CHANNELS and c > _IMAGE_CHANNELS))


def slow_channels_note(channels: Sequence[int]) -> str:
    """A line on `slow_channels` for a terminal."""
    listed = ", ".join(map(str, channels))
    return (
        f"INT8: convolutions read {listed} channels, which is not a multiple of {_INT8_CHANNELS}: "
        "on TensorRT, INT8 may be slower than FP16 there"
    )
