"""Exact graph passes on onnx-ir, one a file; each class docstring is its specification."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from adadm.export.modulator import update_modulator_functions
from adadm.export.passes.channels import label
from adadm.export.passes.expose_factors import ExposeFactors
from adadm.export.passes.fold_affine_into_preceding_conv import FoldAffineIntoPrecedingConv
from adadm.export.passes.fold_batch_norm_after_relu import FoldBatchNormAfterRelu
from adadm.export.passes.fold_batch_norm_into_following_conv import FoldBatchNormIntoFollowingConv
from adadm.export.passes.folding import Decision
from adadm.export.passes.shift_trunk import ShiftTrunk

__all__ = ["Decision", "ExposeFactors", "fold_batch_norm"]


def fold_batch_norm(model: ir.Model) -> list[Decision]:
    """Fold every BatchNormalization of a model that can be folded exactly, in place.

    Works on any ONNX graph (`onnx_ir.load`), whatever exported it. Constant factors after
    convolutions (`res_scale`) are folded on the way.

    Returns:
        One decision for each BatchNormalization: what became of it, or why it was kept.
    """
    common.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
    common.ShapeInferencePass()(model)
    norms = [node for node in model.graph if node.op_type == "BatchNormalization"]
    names = {node: label(node) for node in norms}
    forms: dict[ir.Node, str | None] = {}
    reasons: dict[ir.Node, list[str]] = {node: [] for node in norms}
    for folding in (
        FoldAffineIntoPrecedingConv(),
        FoldBatchNormAfterRelu(),
        FoldBatchNormIntoFollowingConv(),
        ShiftTrunk(),
    ):
        folding(model)
        for node, decision in folding.decisions.items():
            if node in names:
                forms[node] = decision.form
                reasons[node] += [decision.reason] if decision.reason else []
    common.RemoveUnusedNodesPass()(model)
    update_modulator_functions(model)
    return [
        Decision(names[node], forms.get(node), "" if forms.get(node) else "; ".join(reasons[node]))
        for node in norms
    ]
