from __future__ import annotations

import pytest

from _support.graphs import apply, graph
from adadm.export.passes.shift_trunk import ShiftTrunk

HEAD = "t = Conv <pads = [1, 1, 1, 1]> (x, W3, B)"
PAD = "Conv <pads = [1, 1, 1, 1]>"


def modulate(result: str, trunk: str, residual: str) -> str:
    return f"{result} = adadm.AdaDMModulate <weight = 0.9, bias = 0.1> ({trunk}, {residual})"


def block(trunk: str, result: str, gamma: str = "G") -> str:
    """normalization, padded convolution, modulator"""
    return (
        f"n_{result} = BatchNormalization ({trunk}, {gamma}, T, M, S) "
        f"r_{result} = {PAD} (n_{result}, V3, B) {modulate(result, trunk, f'r_{result}')} "
    )


@pytest.mark.parametrize(
    ("body", "shifted"),
    [
        (f"{HEAD} {block('t', 'y')}", 1),
        (f"{HEAD} {block('t', 'u')} {block('u', 'y')}", 2),
        # a long skip: the other operand of Add takes the shift back
        (f"{HEAD} {block('t', 'u')} c = {PAD} (u, W3) y = Add (t, c)", 1),
        (f"{HEAD} {block('t', 'u')} c = {PAD} (u, W3) y = Add (c, t)", 1),
        # ... also where that is a modulator's
        (f"{HEAD} {block('t', 'u')} y = Add (t, u)", 1),
        # the trunk comes from a sum, one operand of which is a convolution's
        (f"c = {PAD} (x, W3, B) t = Add (c, x) {block('t', 'y')}", 1),
        # an unpadded convolution, through Concat
        (
            f"{HEAD} {block('t', 'u')} k = Concat <axis = 1> (x, t) g = Conv (k, WC, B) "
            "y = Add (g, u)",
            1,
        ),
        # two modulators on one trunk
        (f"{HEAD} {block('t', 'u')} {modulate('v', 't', 'r')} y = Add (u, v)", 1),
        # a second normalization of the same trunk takes the shift into its mean
        (
            f"{HEAD} {block('t', 'u')} m = BatchNormalization (t, P, T, M, S) z = Relu (m) "
            "y = Add (z, u)",
            1,
        ),
    ],
)
def test_fires(body: str, shifted: int) -> None:
    counts, decisions = apply(ShiftTrunk(), graph(body))
    assert [d.result for d in decisions].count("shifted trunk") == shifted
    assert counts["AdaDMModulateShifted"] >= shifted


def test_the_last_modulator_gives_the_trunk_back_unshifted() -> None:
    model = graph(f"{HEAD} {block('t', 'u')} {block('u', 'y')}")
    counts, _ = apply(ShiftTrunk(), model)
    assert counts == {"Conv": 3, "AdaDMModulateShifted": 2}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{HEAD} {block('t', 'y', gamma='Z')}", "gamma is 0 in channel 1, and beta is not"),
        (f"{HEAD} {block('t', 'y', gamma='tiny')}", "times the std"),
        (f"{block('x', 'y')}", "comes from a graph input"),
        (f"t = Relu (x) {block('t', 'y')}", "comes from Relu t"),
        (f"{HEAD} {block('t', 'u')} z = Relu (t) y = Add (u, z)", "Relu z reads t"),
        (
            f"{HEAD} {block('t', 'u')} z = {PAD} (t, W3) y = Add (u, z)",
            "z reads the trunk and pads it",
        ),
        (f"{HEAD} {block('t', 'u')} y = Add (t, t) ", "cannot take the shift back"),
        (f"{HEAD} {block('t', 'u')} {modulate('y', 'u', 't')}", "AdaDMModulate y reads t"),
        (
            f"{HEAD} n = BatchNormalization (t, G, T, M, S) z = Relu (n) {modulate('y', 't', 'z')}",
            "Relu z reads n",
        ),
    ],
)
def test_is_left_alone(body: str, reason: str) -> None:
    counts, decisions = apply(ShiftTrunk(), graph(body))
    assert counts["BatchNormalization"] == 1
    assert decisions[0].result is None
    assert reason in decisions[0].reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            f"{HEAD} d = Add (E, E) s = adadm.AdaDMModulateShifted <weight = 0.9, bias = 0.1> "
            f"(t, r, E, d) {block('s', 'y')}",
            "center or delta of s is not constant",
        ),
        (f"o = Conv (x, WO) t = Add (o, x) {block('t', 'y')}", "comes from Add t"),
    ],
)
def test_is_left_alone_where_the_trunk_cannot_move(body: str, reason: str) -> None:
    _, decisions = apply(ShiftTrunk(), graph(body))
    assert decisions[-1].result is None
    assert reason in decisions[-1].reason


def test_an_unknown_data_type_is_a_reason() -> None:
    model = graph(f"{HEAD} {block('t', 'y')}")
    next(iter(model.graph)).outputs[0].type = None
    folding = ShiftTrunk()
    assert not folding(model).modified
    (decision,) = folding.decisions.values()
    assert decision.reason == "the data type of the trunk is unknown"


def test_a_trunk_that_is_an_output_stays() -> None:
    _, decisions = apply(ShiftTrunk(), graph(f"{HEAD} {block('t', 'y')}", outputs="y t"))
    assert decisions[0].reason == "the trunk is a graph output here"


def test_a_normalization_without_a_modulator_is_not_its_business() -> None:
    body = f"{HEAD} n = BatchNormalization (t, G, T, M, S) y = {PAD} (n, V3)"
    _, decisions = apply(ShiftTrunk(), graph(body))
    assert decisions == []
