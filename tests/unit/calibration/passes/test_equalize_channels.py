from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from _support.double_precision import relative_error, run_double
from _support.graphs import CHANNELS, graph
from _support.parity import TOLERANCES
from adadm.calibration.passes import EqualizeChannels
from adadm.export.graph.channels import weight_of

PAD = "Conv <pads = [1, 1, 1, 1]>"
FACTOR = np.array([0.02, 3.0, 40.0])


def equalized(body: str, outputs: str = "y", name: str = "y") -> Counter[str]:
    """Apply the pass to one convolution; assert that the numbers stay."""
    model = graph(body, outputs)
    feed = {"x": np.random.default_rng(1).normal(1, 3, (2, CHANNELS, 7, 6))}
    feed["r"] = feed["x"][::-1] * 0.7
    before = run_double(model, feed)
    (convolution,) = (node for node in model.graph if node.name == name)
    weight = weight_of(convolution)
    assert EqualizeChannels({name: FACTOR})(model).modified
    for found, expected in zip(run_double(model, feed), before, strict=True):
        assert relative_error(found, expected) <= TOLERANCES["float64"]
    divided = weight_of(convolution) * FACTOR.reshape(1, -1, 1, 1)
    np.testing.assert_allclose(divided, weight, rtol=1e-12)
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize(
    "body",
    [
        f"c = {PAD} (x, V3, B) z = Relu (c) y = {PAD} (z, W3, B)",
        f"c = {PAD} (x, V3) z = Relu (c) y = {PAD} (z, W3, B)",
        f"c = {PAD} (x, V3, B) z = Relu (c) s = Add (z, E) y = {PAD} (s, W3, B)",
        f"c = {PAD} (x, V3, B) z = Relu (c) s = Add (E, z) y = {PAD} (s, W3, B)",
    ],
    ids=["relu", "no bias", "shifted relu", "shift first"],
)
def test_goes_into_the_convolution_before(body: str) -> None:
    assert equalized(body)["Mul"] == 0


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"y = {PAD} (x, W3, B)", "y"),
        (f"c = {PAD} (x, V3, B) y = {PAD} (c, W3, B)", "y"),
        (f"c = {PAD} (x, V3, B) z = Relu (c) y = {PAD} (z, W3, B) w = Neg (z)", "y w"),
        (f"c = {PAD} (x, V3, B) z = Relu (c) y = {PAD} (z, W3, B) w = Neg (c)", "y w"),
        (f"c = {PAD} (x, V3, B) z = Relu (c) s = Add (z, r) y = {PAD} (s, W3, B)", "y"),
        (f"c = {PAD} (x, r, B) z = Relu (c) y = {PAD} (z, W3, B)", "y"),
        (
            f"c = {PAD} (x, V3, B) z = Relu (c) s = Add (z, E) y = {PAD} (s, W3, B) w = Neg (s)",
            "y w",
        ),
    ],
    ids=[
        "an input", "no relu", "relu read twice", "convolution read twice", "no constant",
        "weights not constant", "shift read twice",
    ],
)  # fmt: skip
def test_stands_before_the_convolution(body: str, outputs: str) -> None:
    if "r, B" in body:
        body = body.replace("r, B", "k, B").replace("c =", "k = Identity (W3) c =", 1)
    assert equalized(body, outputs)["Mul"] == 1


def test_leaves_alone_what_is_not_named() -> None:
    model = graph(f"y = {PAD} (x, W3, B)")
    assert not EqualizeChannels({"other": FACTOR})(model).modified
    assert len(model.graph) == 1
