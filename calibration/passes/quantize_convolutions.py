"""Insert Q/DQ pairs at the inputs of convolutions, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.export.graph.channels import bias_of, set_bias, weight_of
from adadm.export.graph.rewriting import (
    graph_of,
    input_of,
    is_op,
    label,
    named_node,
    new_initializer,
)

Array = npt.NDArray[np.float64]

LARGEST_LEVEL = 127
"""Largest INT8 level. The range is symmetric, without -128, so that negation is exact."""

_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_normal)


def half_scale(largest: Array) -> Array:
    """Smallest scale that holds a magnitude and is exact in float16.

    A float16 and a float32 graph then have the same levels. At least 2**-14: hardware may flush
    smaller float16 numbers to 0.
    """
    wanted = np.maximum(largest / LARGEST_LEVEL, _SMALLEST_SCALE)
    scale = wanted.astype(np.float16)
    above = np.nextafter(scale, np.float16(np.inf))
    return np.where(scale.astype(np.float64) < wanted, above, scale).astype(np.float64)


class QuantizeConvolutions(ir.passes.InPlacePass):
    """Give convolutions explicit INT8 inputs and weights, and float32 results.

    Pattern: `x -> Conv`, by the convolution's name, with constant weights.

    Algebra: `x` becomes `DequantizeLinear(QuantizeLinear(x, s, 0), s, 0)`, one scale a tensor; the
    weights `DequantizeLinear(q, s_m, 0)`, symmetric, one scale an output channel, `q` rounded
    to nearest. Zero points are explicit and 0. The bias stays float32, and compensates the shift of
    the mean that rounding the weights causes: `sum (W - s_m q) mean(x)`. No pair is placed on the
    trunk, the modulators, an Add, or the result of a convolution. Convolutions that read one value
    at one scale share the pair.

    Left alone when: no scale is given for the convolution.

    Args:
        scales: scale of the input, by name of the convolution.
        means: mean (C,) of the input, by name of the convolution.
    """

    def __init__(self, scales: Mapping[str, float], means: Mapping[str, Array]) -> None:
        self.scales, self.means = scales, means

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        pairs: dict[tuple[ir.Value, float], ir.Value] = {}
        chosen = [n for n in model.graph if is_op(n, "Conv") and label(n) in self.scales]
        for node in chosen:
            name, value = label(node), input_of(node, 0)
            scale = self.scales[name]
            if (value, scale) not in pairs:
                pairs[value, scale] = _quantized_input(node, value, scale)
            node.replace_input_with(0, pairs[value, scale])
            _quantize_weights(node, self.means[name])
        return ir.passes.PassResult(model, modified=bool(chosen))


def _quantized_input(convolution: ir.Node, value: ir.Value, scale: float) -> ir.Value:
    graph, name = graph_of(convolution), f"{label(convolution)}.input"
    parameters = [
        new_initializer(graph, f"{name}.scale", np.array(scale), ir.DataType.FLOAT),
        new_initializer(graph, f"{name}.zero_point", np.array(0), ir.DataType.INT8),
    ]
    for kind, dtype in (("quantize", ir.DataType.INT8), ("dequantize", ir.DataType.FLOAT)):
        inputs, op_type = [value, *parameters], f"{kind.capitalize()}Linear"
        node = named_node(op_type, inputs, name=f"{name}.{kind}d", dtype=dtype, shape=value.shape)
        graph.insert_before(convolution, node)
        value = node.outputs[0]
    return value


def _quantize_weights(convolution: ir.Node, mean: Array) -> None:
    weight, bias = weight_of(convolution), bias_of(convolution)
    graph, name = graph_of(convolution), f"{label(convolution)}.weight"
    scale = half_scale(np.abs(weight).reshape(len(weight), -1).max(axis=1))
    spread = scale.reshape((-1,) + (1,) * (weight.ndim - 1))
    levels = np.clip(np.rint(weight / spread), -LARGEST_LEVEL, LARGEST_LEVEL)
    lost = (weight - levels * spread).sum(axis=(2, 3))  # (M, C/group)
    groups = convolution.attributes.get_int("group", 1)
    by_row = np.repeat(mean.reshape(groups, -1), len(weight) // groups, axis=0)
    set_bias(convolution, bias + (lost * by_row).sum(axis=1))
    inputs = [
        new_initializer(graph, f"{name}.levels", levels, ir.DataType.INT8),
        new_initializer(graph, f"{name}.scale", scale, ir.DataType.FLOAT),
        new_initializer(graph, f"{name}.zero_point", np.zeros(len(scale)), ir.DataType.INT8),
    ]
    form: dict[str, Any] = {"dtype": ir.DataType.FLOAT, "shape": weight.shape}
    name = f"{name}.dequantized"
    dequantize = named_node("DequantizeLinear", inputs, {"axis": 0}, name=name, **form)
    graph.insert_before(convolution, dequantize)
    old = convolution.inputs[1]
    convolution.replace_input_with(1, dequantize.outputs[0])
    if old is not None and old.name and not old.uses():
        graph.initializers.pop(old.name, None)
