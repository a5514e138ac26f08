"""Sequences of passes that make a graph exact and small."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.export.graph.checker import check_graph
from adadm.export.graph.rewriting import is_batch_norm, label
from adadm.export.operators import all_nodes, update_functions
from adadm.export.passes.collapse_linear_tail import CollapseLinearTail
from adadm.export.passes.fold_affine_into_preceding_conv import FoldAffineIntoPrecedingConv
from adadm.export.passes.fold_batch_norm_after_relu import FoldBatchNormAfterRelu
from adadm.export.passes.fold_batch_norm_into_following_conv import FoldBatchNormIntoFollowingConv
from adadm.export.passes.folding import Decision
from adadm.export.passes.shift_trunk import ShiftTrunk

_IN_A_BODY = "it is in the body of a function, or of an If or Loop"


def fold_batch_norm(model: ir.Model) -> list[Decision]:
    """Fold every BatchNormalization of a model that can be folded exactly, in place.

    Works on any ONNX graph (`onnx_ir.load`) of any exporter. Constant factors after convolutions
    (`res_scale`) are folded too.

    Returns:
        The decision for each BatchNormalization.

    Raises:
        ExportError: the ONNX checker refuses the graph.
    """
    check_graph(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)  # a dead reader would prevent a fold
    common.ShapeInferencePass()(model)
    norms = [node for node in all_nodes(model) if is_batch_norm(node)]
    names = {node: label(node) for node in norms}
    passes = (
        FoldAffineIntoPrecedingConv(),
        FoldBatchNormAfterRelu(),
        FoldBatchNormIntoFollowingConv(),
        ShiftTrunk(),
    )
    forms: dict[ir.Node, str] = {}
    reasons: dict[ir.Node, list[str]] = {}
    folded = True
    while folded:  # one fold can make room for another
        folded = False
        reasons = {node: [_IN_A_BODY] if node.graph is not model.graph else [] for node in norms}
        for folding in passes:
            folded |= folding(model).modified
            for node, decision in folding.decisions.items():
                if node in names and decision.result:
                    forms[node] = decision.result
                elif node in names:
                    reasons[node].append(decision.reason)
    common.RemoveUnusedNodesPass()(model)
    update_functions(model)
    return [
        Decision(names[node], forms.get(node), "" if node in forms else "; ".join(reasons[node]))
        for node in norms
    ]


def collapse_tail(model: ir.Model) -> Decision:
    """Collapse the linear tail of a model to one convolution and one DepthToSpace, in place.

    Works on any ONNX graph, after `fold_batch_norm`.

    Returns:
        The decision for the tail.

    Raises:
        ExportError: the ONNX checker refuses the graph.
    """
    check_graph(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
    collapsing = CollapseLinearTail()
    collapsing(model)
    common.ShapeInferencePass()(model)
    nothing = Decision("tail", None, "the graph has no DepthToSpace")
    return next(iter(collapsing.decisions.values()), nothing)
