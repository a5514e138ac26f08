"""Fold a BatchNormalization into the unpadded convolutions after it: the ordinary fold."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from adadm.export.graph.channels import (
    affine_of_batch_norm,
    pads,
    reached_convolutions,
    scale_inputs,
    shift_inputs,
)
from adadm.export.graph.rewriting import NotFoldable, input_of, is_batch_norm, label, replace
from adadm.export.passes.folding import FoldingPass


class FoldBatchNormIntoFollowingConv(FoldingPass):
    """Folds a BatchNormalization into the convolutions that read it.

    Pattern: `BatchNormalization -> (Concat ->)* Conv`, any number of convolutions.

    Algebra: `W*(a x + t) + b = (W a)*x + (b + sum W t)`, input channels of W scaled.

    Exact when: no convolution pads, or `t = 0`. At a padded border zeros stand for `a x + t`, so
    the sum of `W t` would be too large there.

    Left alone when: a convolution pads and `t` is not 0; a node other than a convolution reads the
    normalization; a parameter is not constant.
    """

    result: ClassVar[str] = "folded into the convolutions after it"

    def matches(self, node: ir.Node) -> bool:
        return is_batch_norm(node)

    def fold(self, node: ir.Node) -> None:
        affine = affine_of_batch_norm(node)
        leaves = reached_convolutions(node.outputs[0])
        padded = [leaf for leaf in leaves if pads(leaf.convolution)]
        if padded and affine.shift.any():
            raise NotFoldable(f"{label(padded[0].convolution)} pads it with zeros")
        for leaf in leaves:
            shift_inputs(leaf, affine.shift)
            scale_inputs(leaf, affine.scale)
        replace(node.outputs[0], input_of(node, 0))
