"""Equalize the channels of a convolution's input, so that one scale fits all of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.export.graph.channels import (
    Affine,
    Leaf,
    bias_of,
    map_channels,
    scale_inputs,
    scale_outputs,
    weight_of,
)
from adadm.export.graph.rewriting import (
    NotFoldable,
    constant_of,
    constant_values,
    dtype_of,
    graph_of,
    input_of,
    is_op,
    label,
    named_node,
    new_initializer,
    produced_by,
    replace_initializer,
    sole_consumer,
)

Array = npt.NDArray[np.float64]


class EqualizeChannels(ir.passes.InPlacePass):
    """Multiply the input channels of a convolution by positive factors, and divide its weights.

    Pattern: `x -> Conv`, by the convolution's name.

    Algebra: `W * x = (W / d) * (d x)`, input channels of `W` divided. Where `x` is
    `Conv -> Relu (-> Add a constant)` without other readers, `d` is folded into the rows and the
    bias of that convolution and into the constant, since `d relu(z) = relu(d z)` for `d > 0`. This
    costs nothing. Otherwise a Mul is placed before the convolution, which engines merge with the
    quantizer after it.

    Exact when: always. The zeros of the padding stay zeros.

    Left alone when: no factors are given for the convolution.

    Args:
        factors: factors (C,) by name of the convolution, each above 0.
    """

    def __init__(self, factors: Mapping[str, Array]) -> None:
        self.factors = factors

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        chosen = [n for n in model.graph if is_op(n, "Conv") and label(n) in self.factors]
        for node in chosen:
            factor = self.factors[label(node)]
            if not _scale_before(input_of(node, 0), factor):
                _multiply(node, factor)
            scale_inputs(Leaf(node, 0), 1 / factor)
        return ir.passes.PassResult(model, modified=bool(chosen))


def _scale_before(value: ir.Value, factor: Array) -> bool:
    """Scale a value inside the convolution and ReLU that compute it; False if others do."""
    add = produced_by(value, "Add")
    shift = None
    if add is not None and sole_consumer(value):
        shift = next((i for i, v in enumerate(add.inputs) if constant_of(v) is not None), None)
        if shift is None:
            return False
        value = input_of(add, 1 - shift)
    relu = produced_by(value, "Relu")
    convolution = produced_by(relu.inputs[0], "Conv") if relu is not None else None
    if relu is None or convolution is None:
        return False
    if not (sole_consumer(value) and sole_consumer(convolution.outputs[0])):
        return False
    try:
        weight_of(convolution), bias_of(convolution)
    except NotFoldable:
        return False
    scale_outputs(convolution, Affine(factor, np.zeros(factor.size)))
    if add is not None and shift is not None:
        constant = add.inputs[shift]
        replace_initializer(add, shift, constant_values(constant) * factor.reshape(1, -1, 1, 1))
        map_channels(add.outputs[0], Affine(factor, np.zeros(factor.size)))
    return True


def _multiply(convolution: ir.Node, factor: Array) -> None:
    value = input_of(convolution, 0)
    graph, name, dtype = graph_of(convolution), f"{label(convolution)}.equalized", dtype_of(value)
    constant = new_initializer(graph, f"{name}.factor", factor.reshape(1, -1, 1, 1), dtype)
    product = named_node("Mul", [value, constant], name=name, dtype=dtype, shape=value.shape)
    graph.insert_before(convolution, product)
    convolution.replace_input_with(0, product.outputs[0])
