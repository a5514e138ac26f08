"""Fold a constant per-channel map into the convolution before it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adadm.export.graph.channels import (
    Affine,
    affine_of_batch_norm,
    bias_of,
    pads,
    scale_outputs,
    weight_of,
)
from adadm.export.graph.rewriting import (
    NotFoldable,
    constant_of,
    constant_values,
    is_batch_norm,
    is_op,
    produced_by,
    replace,
    sole_consumer,
)
from adadm.export.passes.folding import FoldingPass


class FoldAffineIntoPrecedingConv(FoldingPass):
    """Folds a constant map of each channel into the convolution before it.

    Pattern: `Conv -> BatchNormalization`, `Conv -> Mul(constant)` (`res_scale`), and
    `Conv -> Conv` where the second is 1x1 and diagonal (`add_mean`).

    Algebra: `a * (W*x + b) + t = (a W)*x + (a b + t)`, rows of W scaled.

    Exact when: always; the padding of the convolution lies before the map.

    Left alone when: another node reads the convolution's output; weights, bias or the map are not
    constant; the factor of Mul varies along another axis than the channels; a second convolution is
    not diagonal, or has groups, pads or strides.
    """

    result: ClassVar[str] = "folded into the convolution before it"

    def __init__(self) -> None:
        super().__init__()
        self._mapped: set[ir.Node] = set()

    def matches(self, node: ir.Node) -> bool:
        is_scale = is_op(node, "Mul") and _factor(node) is not None
        is_map = is_batch_norm(node) or is_scale or _is_diagonal_conv(node)
        return is_map and _conv_before(node) is not None

    def fold(self, node: ir.Node) -> None:
        if (convolution := _conv_before(node)) is None:
            raise NotFoldable("no convolution stands before it")
        if not sole_consumer(convolution.outputs[0]):
            raise NotFoldable("something else reads the output of the convolution before it")
        weight, _ = weight_of(convolution), bias_of(convolution)
        if is_batch_norm(node):
            affine = affine_of_batch_norm(node)
        elif node.op_type == "Conv":
            affine = Affine(np.diagonal(weight_of(node)[..., 0, 0]), bias_of(node))
        else:
            affine = _channel_scale(node, weight.shape[0], weight.ndim)
        # A factor right after a convolution enters its weights in every form: if it is not folded
        # here, onnxsim fuses it.
        noted = node.op_type != "Mul" or convolution in self._mapped
        scale_outputs(convolution, affine, noted=noted)
        if noted:
            self._mapped.add(convolution)
        replace(node.outputs[0], convolution.outputs[0])


def _conv_before(node: ir.Node) -> ir.Node | None:
    for value in node.inputs[: 2 if node.op_type == "Mul" else 1]:
        if (convolution := produced_by(value, "Conv")) is not None:
            return convolution
    return None


def _is_diagonal_conv(node: ir.Node) -> bool:
    """True if a node is a convolution that mixes neither pixels nor channels."""
    weight = constant_of(node.inputs[1]) if is_op(node, "Conv") else None
    if weight is None or weight.shape[0] != weight.shape[1] or weight.shape[2:] != (1, 1):
        return False
    moves = pads(node) or any(stride != 1 for stride in node.attributes.get_ints("strides", ()))
    return not moves and np.array_equal(weight[..., 0, 0], np.diag(np.diag(weight[..., 0, 0])))


def _factor(node: ir.Node) -> ir.Value | None:
    for value in node.inputs:
        if constant_of(value) is not None:
            return value
    return None


def _channel_scale(node: ir.Node, channels: int, ndim: int) -> Affine:
    factor = constant_values(_factor(node))
    aligned = factor.reshape((1,) * (ndim - factor.ndim) + factor.shape)
    if (
        aligned.ndim != ndim
        or aligned.size != aligned.shape[1]
        or aligned.size not in (1, channels)
    ):
        raise NotFoldable(f"its factor has the shape {factor.shape} instead of one value a channel")
    return Affine(np.broadcast_to(aligned.ravel(), (channels,)), np.zeros(channels))
