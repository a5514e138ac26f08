from __future__ import annotations

import pytest

from _support.graphs import apply, graph
from adadm.export.passes.fold_batch_norm_after_relu import FoldBatchNormAfterRelu

BEFORE = "c = Conv <pads = [1, 1, 1, 1]> (x, W3, B) h = Relu (c)"
AFTER = "y = Conv <pads = [1, 1, 1, 1]> (b, V3)"


@pytest.mark.parametrize("gamma", ["G", "P", "Z"])
def test_fires(gamma: str) -> None:
    body = f"{BEFORE} b = BatchNormalization (h, {gamma}, T, M, S) {AFTER}"
    counts, decisions = apply(FoldBatchNormAfterRelu(), graph(body))
    assert counts == {"Conv": 2, "Relu": 1, "Add": 1}
    assert decisions[0].result == "folded into the activation"


def test_fires_through_concats_with_negative_gammas() -> None:
    """The channels begin at 3 in one convolution, and at 0 and 6 in the other."""
    body = (
        f"{BEFORE} b = BatchNormalization (h, G, T, M, S) k = Concat <axis = 1> (x, b) "
        "c1 = Conv (k, WC, B) k2 = Concat <axis = 1> (b, k) "
        "c2 = Conv <pads = [1, 1, 1, 1]> (k2, WN) y = Add (c1, c2)"
    )
    counts, decisions = apply(FoldBatchNormAfterRelu(), graph(body))
    assert counts == {"Conv": 3, "Relu": 1, "Concat": 2, "Add": 2}
    assert decisions[0].result == "folded into the activation"


def test_fires_before_a_depthwise_convolution() -> None:
    body = (
        f"{BEFORE} b = BatchNormalization (h, G, T, M, S) "
        "y = Conv <group = 3, pads = [1, 1, 1, 1]> (b, WD)"
    )
    counts, _ = apply(FoldBatchNormAfterRelu(), graph(body))
    assert counts == {"Conv": 2, "Relu": 1, "Add": 1}


def test_positive_gammas_need_no_convolution_after() -> None:
    body = f"{BEFORE} y = BatchNormalization (h, P, T, M, S)"
    counts, _ = apply(FoldBatchNormAfterRelu(), graph(body))
    assert counts == {"Conv": 1, "Relu": 1, "Add": 1}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"h = Relu (x) b = BatchNormalization (h, G, T, M, S) {AFTER}", "no convolution stands"),
        (
            f"{BEFORE} b = BatchNormalization (h, G, T, M, S) z = Conv (b, W1) y = Add (z, h)",
            "something else reads the convolution or the ReLU",
        ),
        (
            f"{BEFORE} b = BatchNormalization (h, G, T, M, S) z = Conv (b, W1) y = Add (z, c)",
            "something else reads the convolution or the ReLU",
        ),
        (f"{BEFORE} y = BatchNormalization (h, G, T, M, S)", "y is a graph output"),
        (
            f"{BEFORE} b = BatchNormalization (h, G, T, M, S) z = Conv (b, W1) y = Add (z, b)",
            "Add y reads b",
        ),
        (
            f"{BEFORE} b = BatchNormalization (h, G, T, M, S) k = Concat <axis = 1> (x, b) "
            "z = Tanh (k) y = Conv (z, WC)",
            "Tanh z reads k",
        ),
        (
            f"{BEFORE} t = Add (T, B) b = BatchNormalization (h, G, t, M, S) {AFTER}",
            "a parameter is not constant",
        ),
    ],
)
def test_is_left_alone(body: str, reason: str) -> None:
    counts, decisions = apply(FoldBatchNormAfterRelu(), graph(body))
    assert counts["BatchNormalization"] == counts["Relu"] == 1
    assert decisions[0].result is None
    assert reason in decisions[0].reason
