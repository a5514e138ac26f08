from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common

from _support.double_precision import run_double
from _support.graphs import CHANNELS, graph
from adadm.export.passes import ExternalizeStatistics, ReturnMoments

Array = npt.NDArray[Any]

PAD = "Conv <pads = [1, 1, 1, 1]>"
PLAIN = "AdaDMModulate <weight = 0.9, bias = 0.1>"
SHIFTED = "AdaDMModulateShifted <weight = 0.8, bias = -0.2>"
# head, two blocks of two convolutions on a plain and a shifted trunk, a skip, a tail
NETWORK = (
    f"t = {PAD} (x, W3, B) "
    f"a = {PAD} (t, V3, B) b = Relu (a) c = {PAD} (b, W3, B) u = adadm.{PLAIN} (t, c) "
    f"d = Add (E, E) f = {PAD} (u, W3, B) g = Relu (f) h = {PAD} (g, V3, B) "
    f"v = adadm.{SHIFTED} (u, h, E, d) "
    f"w = {PAD} (v, V3, B) s = Add (t, w) y = {PAD} (s, W3, B)"
)

_rng = np.random.default_rng(2)
FEED = {name: _rng.normal(1, 3, (2, CHANNELS, 7, 6)) for name in ("x", "r")}
FEED["x"][1] *= 4
ROWS, COLUMNS = np.zeros((2, 1, 7, 1)), np.zeros((2, 1, 1, 6))
ROWS[:, :, 2:6] = COLUMNS[..., 1:4] = 1
INSIDE = {"rows_inside": ROWS, "columns_inside": COLUMNS}


def test_the_moments_of_every_trunk_come_out_in_order() -> None:
    original = graph(NETWORK, outputs="t u")
    center = original.graph.initializers["E"].const_value
    assert center is not None
    t, u = run_double(original, FEED)
    model = graph(NETWORK)
    assert ReturnMoments()(model).modified
    (moments,) = run_double(model, {**FEED, **INSIDE})
    assert moments.shape == (2, 2, 3)
    for index, trunk in enumerate((t, u - center.numpy())):
        values = trunk[:, :, 2:6, 1:4].reshape(2, -1)
        mean, count = values.mean(axis=1), values.shape[1]
        squares = ((values - mean[:, None]) ** 2).sum(axis=1)
        expected = np.stack([np.full(2, count), mean, squares], axis=1)
        np.testing.assert_allclose(moments[:, index], expected, rtol=1e-10)


def test_the_moments_are_all_that_comes_out() -> None:
    model = graph(NETWORK, outputs="y u")
    ReturnMoments()(model)
    (output,) = model.graph.outputs
    described = [
        (value.name, value.dtype, [str(side) for side in value.shape or ()])
        for value in (output, *model.graph.inputs[-2:])
    ]
    assert described == [
        ("moments", ir.DataType.FLOAT, ["N", "2", "3"]),
        ("rows_inside", ir.DataType.FLOAT, ["N", "1", "H", "1"]),
        ("columns_inside", ir.DataType.FLOAT, ["N", "1", "1", "W"]),
    ]
    assert {"AdaDMMoments", "AdaDMMomentsShifted"} <= {name for _, name, _ in model.functions}


def test_the_tail_and_the_last_residual_branch_are_dead() -> None:
    model = graph(NETWORK)
    ReturnMoments()(model)
    ExternalizeStatistics()(model)
    common.RemoveUnusedNodesPass()(model)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["Conv"] == 3  # of 7: the head, and the first block's two
    assert counts["Relu"] == counts["AdaDMModulateExternal"] == 1
    assert "AdaDMModulateShiftedExternal" not in counts
    assert (counts["AdaDMMoments"], counts["AdaDMMomentsShifted"]) == (1, 1)
    known = np.zeros((2, 2, 1, 1))
    (alive,) = run_double(model, {**FEED, **INSIDE, "std": known})
    whole = graph(NETWORK)
    ReturnMoments()(whole)
    ExternalizeStatistics()(whole)
    (expected,) = run_double(whole, {**FEED, **INSIDE, "std": known})
    np.testing.assert_array_equal(alive, expected)


def test_without_a_modulator_it_is_left_alone() -> None:
    model = graph(f"c = {PAD} (x, W3, B) y = Add (c, r)")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not ReturnMoments()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
