"""Receptive field of a pixel of the image in the input."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import onnx_ir as ir

from adadm.export.graph.rewriting import constant_of, shape_of
from adadm.export.operators import DOMAIN
from adadm.export.operators.modulator import SIGNATURES

_POINTWISE = frozenset(
    {
        "Abs", "Add", "BatchNormalization", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu",
        "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul",
        "Neg", "PRelu", "Pow", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh", "Where",
    }
)  # fmt: skip
"""Operators that read one pixel; Concat, Slice and Split of channels do so too."""

_CHANNELS, _RANK = 1, 4


@dataclass(frozen=True)
class _Reach:
    """Reach of a value in px of the input; and its pixels per input pixel along a side."""

    px: Fraction
    density: Fraction


class _Unbounded(Exception):
    """An operator reads the whole image, or its reach is unknown."""


def receptive_field(model: ir.Model) -> int | None:
    """Distance in pixels of `lr` beyond which no input pixel changes an output pixel.

    The statistics of the modulators, which cover the whole image, are ignored, because tiles share
    them. Nothing else is: attention, pooling over the image, group normalization, strips that move
    (a flip, a collapsed tail) and unknown operators have no bound.

    Args:
        model: a graph with its traced tail.

    Returns:
        The radius, rounded up; None if there is no bound.
    """
    reaches: dict[ir.Value, _Reach] = {model.graph.inputs[0]: _Reach(Fraction(0), Fraction(1))}
    try:
        for node in model.graph:
            read = [reaches[value] for value in node.inputs if value in reaches]
            if read:
                reach = _through(node, _Reach(max(r.px for r in read), read[0].density))
                reaches |= dict.fromkeys(node.outputs, reach)
    except _Unbounded:
        return None
    px = max(reaches[value].px for value in model.graph.outputs if value in reaches)
    return -(-px.numerator // px.denominator)


def _through(node: ir.Node, reach: _Reach) -> _Reach:
    attributes = node.attributes
    if node.domain:
        if node.domain == DOMAIN and node.op_type in SIGNATURES:
            return reach
    elif node.op_type in _POINTWISE or _is_of_channels(node):
        return reach
    elif node.op_type == "Conv":
        sides = [int(side) for side in shape_of(node.inputs[1]).numpy()[2:]]
        dilations = attributes.get_ints("dilations", [1] * len(sides))
        strides = attributes.get_ints("strides", [1] * len(sides))
        before = attributes.get_ints("pads", [0] * len(sides))
        # A pixel reads as far as the padding on one side, and the rest of the kernel on the other.
        # With a stride it stands for several pixels, the last of which are further from the first.
        furthest = max(
            max(pad + stride - 1, dilation * (side - 1) - pad)
            for side, dilation, stride, pad in zip(
                sides, dilations, strides, before[: len(sides)], strict=True
            )
        )
        return _Reach(reach.px + furthest / reach.density, reach.density / max(strides))
    elif node.op_type == "DepthToSpace":
        return _Reach(reach.px, reach.density * attributes["blocksize"].as_int())
    elif node.op_type == "SpaceToDepth":
        block = attributes["blocksize"].as_int()
        return _Reach(reach.px + (block - 1) / reach.density, reach.density / block)
    elif node.op_type == "Resize" and attributes.get_string("mode", "nearest") == "nearest":
        scales = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
        if scales is not None and scales.size == 4:
            factor = Fraction(float(min(scales[2:])))
            return _Reach(reach.px + 1 / reach.density, reach.density * factor)
    raise _Unbounded(node.op_type)


def _is_of_channels(node: ir.Node) -> bool:
    """True if a node joins, cuts or picks channels, but not rows or columns."""
    if node.op_type in ("Concat", "Split"):
        return node.attributes.get_int("axis", 0) % _RANK == _CHANNELS
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return False
    axes = constant_of(node.inputs[3])
    return axes is not None and all(axis % _RANK == _CHANNELS for axis in axes)
