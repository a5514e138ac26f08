from __future__ import annotations

import pytest

from _support.graphs import apply, graph
from adadm.export.passes.fold_affine_into_preceding_conv import FoldAffineIntoPrecedingConv

CONV = "c = Conv <pads = [1, 1, 1, 1]> (x, W3, B)"


@pytest.mark.parametrize(
    "body",
    [
        f"{CONV} y = BatchNormalization (c, G, T, M, S)",
        f"{CONV} y = Mul (c, scalar)",
        f"{CONV} y = Mul (scalar, c)",
        f"{CONV} m = Mul (c, scalar) y = BatchNormalization (m, Z, T, M, S)",
        "c = Conv <pads = [1, 1, 1, 1]> (x, W3) y = BatchNormalization (c, G, T, M, S)",
        "c = Conv (x, W1, B) d = BatchNormalization (c, G, T, M, S) y = Relu (d)",
    ],
)
def test_fires(body: str) -> None:
    counts, decisions = apply(FoldAffineIntoPrecedingConv(), graph(body))
    assert counts["BatchNormalization"] == counts["Mul"] == 0
    assert {decision.result for decision in decisions} == {"folded into the convolution before it"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            f"{CONV} b = BatchNormalization (c, G, T, M, S) y = Add (b, c)",
            "something else reads the output",
        ),
        (f"{CONV} y = Mul (c, rowwise)", "instead of one value a channel"),
        (
            "w = Add (W3, V3) c = Conv <pads = [1, 1, 1, 1]> (x, w, B) "
            "y = BatchNormalization (c, G, T, M, S)",
            "weights of c are not constant",
        ),
        (
            "t = Add (B, T) c = Conv <pads = [1, 1, 1, 1]> (x, W3, t) y = Mul (c, scalar)",
            "bias of c is not constant",
        ),
        (
            f"{CONV} t = Add (B, T) y = BatchNormalization (c, G, t, M, S)",
            "a parameter is not constant",
        ),
    ],
)
def test_is_left_alone(body: str, reason: str) -> None:
    counts, decisions = apply(FoldAffineIntoPrecedingConv(), graph(body))
    assert counts["BatchNormalization"] + counts["Mul"] == 1
    assert len(decisions) == 1
    assert decisions[0].result is None
    assert reason in decisions[0].reason


@pytest.mark.parametrize(
    ("second", "convolutions"),
    [
        ("Conv (c, WI, B)", 1),
        ("Conv (c, WI)", 1),
        ("Conv (c, W1, B)", 2),
        ("Conv <pads = [1, 1, 1, 1]> (c, W3, B)", 2),
        ("Conv <group = 3, pads = [1, 1, 1, 1]> (c, WD)", 2),
    ],
)
def test_a_diagonal_convolution_is_folded_and_no_other(second: str, convolutions: int) -> None:
    model = graph(f"{CONV} y = {second}")
    counts, _ = apply(FoldAffineIntoPrecedingConv(), model)
    assert counts == {"Conv": convolutions}


@pytest.mark.parametrize("attribute", ["pads = [0, 1, 0, 1]", "strides = [1, 2]"])
def test_a_diagonal_convolution_that_moves_pixels_is_left_alone(attribute: str) -> None:
    model = graph(f"{CONV} d = Conv <{attribute}> (c, WI, B) y = Relu (d)")
    assert not FoldAffineIntoPrecedingConv().call(model).modified


def test_a_shared_weight_is_not_changed_for_the_other_convolution() -> None:
    model = graph(
        f"{CONV} m = Mul (c, scalar) d = Conv <pads = [1, 1, 1, 1]> (x, W3, B) y = Add (m, d)"
    )
    counts, _ = apply(FoldAffineIntoPrecedingConv(), model)
    assert counts == {"Conv": 2, "Add": 1}
