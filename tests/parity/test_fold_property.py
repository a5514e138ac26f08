"""Folding random stacks of blocks: the same numbers, border included, or a reason."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given

from _support.double_precision import relative_error, run_double
from _support.parity import TOLERANCES
from _support.random_stacks import BLOCKS, GAMMAS, build, stacks
from adadm.export import fold_batch_norm
from adadm.export.graph.channels import (
    Leaf,
    affine_of_batch_norm,
    reached_convolutions,
    scale_inputs,
    shift_inputs,
)
from adadm.export.graph.rewriting import replace
from adadm.export.passes import ExposeFactors

LR = np.random.default_rng(1).uniform(0, 4, (2, 2, 15, 17))


def copy_of(model: ir.Model) -> ir.Model:
    copied: ir.Model = ir.from_proto(ir.to_proto(model))
    return copied


def assert_folds_exactly(model: ir.Model) -> ir.Model:
    expected = run_double(model, {"lr": LR})
    folded = copy_of(model)
    decisions = fold_batch_norm(folded)

    found = run_double(folded, {"lr": LR})
    assert [o.name for o in folded.graph.outputs] == [o.name for o in model.graph.outputs]
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) <= TOLERANCES["float64"]

    kept = [node for node in folded.graph if node.op_type == "BatchNormalization"]
    left_alone = [decision for decision in decisions if decision.result is None]
    assert len(decisions) == sum(n.op_type == "BatchNormalization" for n in model.graph)
    assert len(left_alone) == len(kept)
    assert all(decision.reason for decision in left_alone)
    assert not any(decision.reason for decision in decisions if decision.result)
    return folded


@given(stacks())
def test_folded_equals_unfolded(model: ir.Model) -> None:
    # Of a constant trunk the std is the last bit's rounding, 0 or 1e-17, and a power of it may be
    # 1e-12: no reordering of the arithmetic keeps that to 1e-10 of the output.
    exposed = copy_of(model)
    ExposeFactors()(exposed)
    factors = run_double(exposed, {"lr": LR})[len(model.graph.outputs) :]
    assume(all(factor.min() > 1e-6 for factor in factors))

    folded = assert_folds_exactly(model)
    again = copy_of(folded)
    fold_batch_norm(again)
    assert [n.op_type for n in again.graph] == [n.op_type for n in folded.graph]


@pytest.mark.parametrize("gammas", GAMMAS)
@pytest.mark.parametrize("kind", BLOCKS)
def test_each_kind_of_block(kind: str, gammas: str) -> None:
    assert_folds_exactly(build(3, 4, gammas, [(kind, 3, 1), (kind, 3, 1)]))


def naive_fold(model: ir.Model) -> None:
    """What looks right and is not: the shift goes into the bias of a padded convolution."""
    for node in list(model.graph):
        if node.op_type == "BatchNormalization":
            affine = affine_of_batch_norm(node)
            leaves: list[Leaf] = reached_convolutions(node.outputs[0])
            for leaf in leaves:
                shift_inputs(leaf, affine.shift)
                scale_inputs(leaf, affine.scale)
            trunk = node.inputs[0]
            assert trunk is not None
            replace(node.outputs[0], trunk)


@pytest.mark.parametrize("block", [("adadm", 3, 1), ("plain", 3, 0)], ids=["padded", "not"])
def test_a_naive_fold_fails_the_same_test(block: tuple[str, int, int]) -> None:
    """And without padding, the control, it does not: it is wrong because of that alone."""
    model = build(3, 4, "mixed signs", [block, block])
    expected = run_double(model, {"lr": LR})[0]
    naive = copy_of(model)
    naive_fold(naive)
    error = relative_error(run_double(naive, {"lr": LR})[0], expected)
    assert error > 1e-3 if block[2] else error <= TOLERANCES["float64"]
