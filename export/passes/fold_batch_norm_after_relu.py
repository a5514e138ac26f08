"""Fold a BatchNormalization after Conv and ReLU (AdaDM's norm2)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adadm.export.graph.channels import (
    Affine,
    affine_of_batch_norm,
    bias_of,
    map_channels,
    reached_convolutions,
    scale_inputs,
    scale_outputs,
    weight_of,
)
from adadm.export.graph.rewriting import (
    NotFoldable,
    dtype_of,
    input_of,
    is_batch_norm,
    label,
    produced_by,
    producer_of,
    replace_initializer,
    sole_consumer,
)
from adadm.export.passes.folding import FoldingPass


class FoldBatchNormAfterRelu(FoldingPass):
    """Folds a BatchNormalization that follows a ReLU into the convolutions around it.

    Pattern: `Conv -> Relu -> BatchNormalization -> anything`.

    Algebra: with `s = sign(a)`, `s = 1` where `a = 0`, `a relu(z) + t = s (relu(|a| z) + s t)`. The
    convolution before takes `|a|` into its rows and its bias. An Add of `s t` per channel follows
    the ReLU. The convolutions after take `s` into the weights of their input channels. (`max(|a| z
    + s t, s t)` is the same, but slower on ONNX Runtime and OpenVINO, which fuse a ReLU into the
    convolution before it.)

    Exact when: always. The zeros that pad the convolutions after it stay zeros, since `s 0 = 0`.

    Left alone when: another node reads the convolution's or the ReLU's output; a parameter is not
    constant; some `a` is negative and the result reaches other nodes than convolutions.
    """

    result: ClassVar[str] = "folded into the activation"

    def matches(self, node: ir.Node) -> bool:
        return is_batch_norm(node) and produced_by(node.inputs[0], "Relu") is not None

    def fold(self, node: ir.Node) -> None:
        relu = producer_of(input_of(node, 0))
        convolution = produced_by(relu.inputs[0], "Conv")
        if convolution is None:
            raise NotFoldable("no convolution stands before the ReLU")
        if not (sole_consumer(convolution.outputs[0]) and sole_consumer(relu.outputs[0])):
            raise NotFoldable("something else reads the convolution or the ReLU before it")
        weight, _ = weight_of(convolution), bias_of(convolution)
        affine = affine_of_batch_norm(node)
        sign = np.where(affine.scale < 0, -1.0, 1.0)
        flipped = reached_convolutions(node.outputs[0]) if (sign < 0).any() else []

        scale_outputs(convolution, Affine(np.abs(affine.scale), np.zeros(sign.size)))
        map_channels(node.outputs[0], Affine(sign, np.zeros(sign.size)))
        for leaf in flipped:
            scale_inputs(leaf, sign)
        shift = (sign * affine.shift).reshape((1, -1) + (1,) * (weight.ndim - 2))
        node.op_type = "Add"
        node.attributes.clear()
        node.resize_inputs(1)  # so that the shift does not take gamma's name
        node.resize_inputs(2)
        dtype = dtype_of(convolution.inputs[1])
        replace_initializer(node, 1, shift, name=f"{label(node)}.shift", dtype=dtype)
