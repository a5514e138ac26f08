from __future__ import annotations

import pytest

from _support.graphs import apply, graph
from adadm.export.passes.fold_batch_norm_into_following_conv import FoldBatchNormIntoFollowingConv

NORM = "b = BatchNormalization (x, G, T, M, S)"


@pytest.mark.parametrize(
    "body",
    [
        f"{NORM} y = Conv (b, W1, B)",
        f"{NORM} y = Conv (b, W3)",
        f"{NORM} c = Conv (b, W1, B) d = Conv (b, W1) y = Add (c, d)",
        f'{NORM} y = Conv <auto_pad = "VALID"> (b, W3, B)',
        f"{NORM} y = Conv <group = 3> (b, WD, B)",
        f"{NORM} k = Concat <axis = 1> (r, b) y = Conv (k, WC, B)",
        f"{NORM} k = Concat <axis = 1> (b, b) y = Conv (k, WC, B)",
    ],
)
def test_fires(body: str) -> None:
    counts, decisions = apply(FoldBatchNormIntoFollowingConv(), graph(body))
    assert counts["BatchNormalization"] == 0
    assert decisions[0].result == "folded into the convolutions after it"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{NORM} y = Conv <pads = [1, 1, 1, 1]> (b, W3)", "y pads it with zeros"),
        (f"{NORM} y = Conv <pads = [0, 0, 1, 0]> (b, W3)", "y pads it with zeros"),
        (f'{NORM} y = Conv <auto_pad = "SAME_UPPER"> (b, W3)', "y pads it with zeros"),
        (f"{NORM} c = Conv (b, W1) y = Add (c, b)", "Add y reads b"),
        (f"{NORM} y = Relu (b)", "Relu y reads b"),
        ("y = BatchNormalization (x, G, T, M, S)", "y is a graph output"),
        (f"{NORM} k = Concat <axis = 2> (b, b) y = Conv (k, W1)", "Concat k reads b"),
        (f"{NORM} w = Add (W1, W1) y = Conv (b, w)", "weights of y are not constant"),
    ],
)
def test_is_left_alone(body: str, reason: str) -> None:
    counts, decisions = apply(FoldBatchNormIntoFollowingConv(), graph(body))
    assert counts["BatchNormalization"] == 1
    assert decisions[0].result is None
    assert reason in decisions[0].reason
