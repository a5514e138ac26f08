from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from _support.double_precision import relative_error, run_double
from _support.graphs import CHANNELS, graph
from _support.parity import TOLERANCES
from adadm.calibration.passes import ScaleTrunk
from adadm.export.operators.modulator import modulators

PAD = "Conv <pads = [1, 1, 1, 1]>"
HEAD = f"t = {PAD} (x, W3, B)"
LAST = f"y = {PAD} (u, W3, B)"
BRANCH = f"c = {PAD} (t, V3, B) z = Relu (c) s = Add (z, E) o = {PAD} (s, W3, B)"


def modulate(
    result: str, trunk: str, residual: str, weight: float = 1, limit: float | None = None
) -> str:
    """With the weight 1, no bias has to be rounded to float32."""
    name, limited = ("", "") if limit is None else ("Limited", f", limit = {limit:.2f}")
    numbers = f"weight = {weight:.2f}, bias = 0.1{limited}"
    return f"{result} = adadm.AdaDMModulate{name} <{numbers}> ({trunk}, {residual})"


def scaled(
    model: ir.Model, exponent: int, values: Collection[str] = (), tolerance: str = "float64"
) -> list[npt.NDArray[Any]]:
    """Apply the pass; assert that it fires and that the numbers stay.

    Returns:
        The trunks of all modulators.
    """
    feed = {"x": np.random.default_rng(1).normal(1, 3, (2, CHANNELS, 7, 6))}
    feed["r"] = feed["x"][::-1] * 0.7
    (expected,) = run_double(model, feed)
    scaling = ScaleTrunk(exponent, values)
    assert scaling(model).modified
    assert scaling.decision and scaling.decision.result == "scaled"
    watched = ir.from_proto(ir.to_proto(model))
    trunks = [node.inputs[0] for node in modulators(watched.graph)]
    watched.graph.outputs.extend(trunk for trunk in trunks if trunk is not None)
    found, *numbers = run_double(watched, feed)
    assert relative_error(found, expected) <= TOLERANCES[tolerance]
    return numbers


def trunks_of(body: str, exponent: int) -> list[npt.NDArray[Any]]:
    return scaled(graph(body), exponent)


@pytest.mark.parametrize("exponent", [-5, 3])
@pytest.mark.parametrize(
    "body",
    [
        f"{HEAD} {BRANCH} {modulate('u', 't', 'o')} {LAST}",
        # a limit that is reached, and one that is not
        f"{HEAD} {BRANCH} {modulate('v', 't', 'o', limit=1.5)} "
        f"{modulate('u', 'v', 'r', limit=8e5)} {LAST}",
        # two blocks, a shifted trunk, a constant on the trunk
        f"{HEAD} {BRANCH} m = adadm.AdaDMModulateShifted <weight = 1.0, bias = 0.1> (t, o, E, E) "
        f"v = Add (E, m) {modulate('u', 'v', 'o')} {LAST}",
        # a long skip, as in EDSR; a normalization that is kept
        f"{HEAD} n = BatchNormalization (t, G, T, M, S) o = {PAD} (n, V3) "
        f"{modulate('v', 't', 'o')} b = {PAD} (v, V3, B) u = Add (b, t) {LAST}",
        # all blocks side by side, as in RDN; what lies beside them is not scaled
        f"{HEAD} {BRANCH} {modulate('v', 't', 'o')} {modulate('w', 'v', 'o')} "
        f"k = Concat <axis = 1> (v, x, w) y = {PAD} (k, WN, B)",
        # a product of which the second factor alone can be scaled, or the first
        f"g = Sigmoid (x) a = {PAD} (x, W3) p = Mul (g, a) {modulate('u', 'p', 'r')} {LAST}",
        f"g = Sigmoid (x) a = {PAD} (x, W3) p = Mul (a, g) {modulate('u', 'p', 'r')} {LAST}",
        # what reads a border of it
        f"{HEAD} {modulate('v', 't', 'r')} from = Constant <value_ints = [0, 0, 0, 0]> () "
        "to = Constant <value_ints = [9, 9, 9, 2]> () q = Slice (v, from, to) u = Relu (q) "
        f"{LAST}",
    ],
)
def test_the_function_stays_and_the_trunk_moves(body: str, exponent: int) -> None:
    before, after = trunks_of(body, 0), trunks_of(body, exponent)
    assert before
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_allclose(found, expected * 2.0**exponent, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("trunks", "moved"),
    [
        (modulate("u", "t", "o", weight=0.75), 0.25),
        # a trunk that is a residual too
        (f"{modulate('v', 't', 'o')} {modulate('u', 't', 'v')}", -1),
        (f"{modulate('v', 't', 'o')} {modulate('u', 't', 'v', weight=0.75)}", -0.75),
    ],
)
def test_a_bias_moves_as_far_as_float32_allows(trunks: str, moved: float) -> None:
    model = graph(f"{HEAD} {BRANCH} {trunks} {LAST}")
    scaled(model, -6, tolerance="float32")
    *_, node = modulators(model.graph)
    bias = node.attributes["bias"].as_float()
    np.testing.assert_allclose(bias, 0.1 + moved * np.log(2.0**-6), rtol=1e-6)


def test_a_residual_is_scaled_alone() -> None:
    model = graph(f"{HEAD} {BRANCH} {modulate('u', 't', 'o')} {LAST}")
    trunks = scaled(model, -6, values=["o"], tolerance="float32")
    np.testing.assert_array_equal(
        trunks, scaled(graph(f"{HEAD} {modulate('u', 't', 'r')} {LAST}"), 0)
    )


def test_the_values_of_a_branch_are_scaled_alone() -> None:
    body = f"{HEAD} {BRANCH} {modulate('u', 't', 'o')} {LAST}"
    model = graph(body)
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    trunks = scaled(model, -3, values=["z"])
    np.testing.assert_array_equal(trunks, trunks_of(body, 0))
    nodes = {node.name: node for node in model.graph}
    for name, index, old, factor in (
        ("c", 1, "V3", 1 / 8),
        ("c", 2, "B", 1 / 8),
        ("s", 1, "E", 1 / 8),
        ("o", 1, "W3", 8),
        ("o", 2, "B", 1),
    ):
        value, tensor = nodes[name].inputs[index], before[old]
        assert value is not None and value.const_value is not None and tensor is not None
        np.testing.assert_array_equal(value.const_value.numpy(), tensor.numpy() * factor)


def test_there_and_back_is_nothing() -> None:
    model = graph(f"{HEAD} {BRANCH} {modulate('u', 't', 'o')} {LAST}")
    nodes = list(model.graph)

    def constants() -> list[npt.NDArray[Any]]:
        return [
            v.const_value.numpy()
            for n in nodes
            for v in n.inputs
            if v is not None and v.const_value
        ]

    before = constants()
    scaled(model, -5)
    scaled(model, 5)
    for found, expected in zip(constants(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("body", "values", "reason"),
    [
        (f"y = {PAD} (x, W3)", (), "the graph has no modulator"),
        (f"{HEAD} y = Tanh (t)", ("nobody",), "no node computes nobody"),
        (f"{modulate('u', 'x', 'r')} {LAST}", (), "it comes from x, an input"),
        (f"t = Tanh (x) {modulate('u', 't', 'r')} {LAST}", (), "it comes from Tanh t"),
        (f"{HEAD} {modulate('u', 't', 'r')} y = Tanh (u)", (), "Tanh y reads u"),
        (f"{HEAD} {modulate('y', 't', 'r')}", (), "y is a graph output"),
        (
            f"e = Neg (B) t = Conv (x, W3, e) {modulate('u', 't', 'r')} {LAST}",
            (),
            "the bias of t is not constant",
        ),
        (f"t = Mul (x, r) {modulate('u', 't', 'r')} {LAST}", (), "no operand of Mul t"),
        (f"{HEAD} t2 = Mul (t, t) {modulate('u', 't2', 'r')} {LAST}", ("t",), "both operands"),
        (
            f"{HEAD} d = Neg (E) u = adadm.AdaDMModulateShifted <weight = 1.0, bias = 0.1> "
            f"(t, r, E, d) {LAST}",
            (),
            "center or delta of u is not constant",
        ),
        (
            f"{HEAD} u, f = adadm.AdaDMModulateWithFactor <weight = 1.0, bias = 0.1> (t, r) {LAST}",
            (),
            "the factor of u is an output",
        ),
    ],
)
def test_is_left_alone(body: str, values: Collection[str], reason: str) -> None:
    model = graph(body)
    before = ir.to_proto(model).SerializeToString()
    scaling = ScaleTrunk(-2, values)
    assert not scaling(model).modified
    assert scaling.decision and scaling.decision.result is None
    assert reason in scaling.decision.reason
    assert ir.to_proto(model).SerializeToString() == before


def test_tells_what_became_of_each_factor() -> None:
    """Where the residual is scaled with the trunk, the factor stays what it was."""
    nested = f"{modulate('v', 't', 'o')} {modulate('u', 't', 'v')}"
    scaling = ScaleTrunk(-3)
    assert scaling(graph(f"{HEAD} {BRANCH} {nested} {LAST}")).modified
    assert scaling.factor_scales == [2.0**-3, 1.0]


def test_unknown_channels_are_a_reason() -> None:
    model = graph(f"{HEAD} {modulate('u', 't', 'r')} {LAST}")
    next(iter(model.graph)).outputs[0].shape = None
    scaling = ScaleTrunk(-2)
    assert not scaling(model).modified
    assert scaling.decision and scaling.decision.reason == "the channels of t are unknown"
