from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from _support.double_precision import relative_error, run_double
from _support.graphs import CHANNELS, graph
from _support.parity import TOLERANCES
from adadm.export.operators.modulator import modulators
from adadm.export.passes import ExternalizeStatistics, ReturnMoments

Array = npt.NDArray[Any]

PLAIN = "AdaDMModulate <weight = 0.9, bias = 0.1>"
OTHER = "AdaDMModulate <weight = -0.7, bias = 0.3>"
SHIFTED = "AdaDMModulateShifted <weight = 0.8, bias = -0.2>"
# Three trunks, x and u and v, whose std differ; the second modulator reads a shifted one.
THREE = (
    f"u = adadm.{PLAIN} (x, r) d = Add (E, E) v = adadm.{SHIFTED} (u, x, E, d) "
    f"y = adadm.{OTHER} (v, r)"
)

_rng = np.random.default_rng(2)
FEED = {name: _rng.normal(1, 3, (2, CHANNELS, 7, 6)) for name in ("x", "r")}
FEED["x"][1] *= 4  # the second image of the batch has another std
CENTER = graph("y = Add (x, E)").graph.initializers["E"].const_value


def std_of(trunk: Array) -> Array:
    return np.asarray(trunk.std(axis=(1, 2, 3), ddof=1, keepdims=True))


def std_of_trunks(u: Array, v: Array) -> Array:
    """In the order of the modulators of `THREE`: (N, 3, 1, 1)."""
    assert CENTER is not None
    return np.concatenate([std_of(FEED["x"]), std_of(u - CENTER.numpy()), std_of(v)], axis=1)


def test_given_the_std_of_the_trunks_nothing_changes() -> None:
    model = graph(THREE, outputs="y u v")
    before = run_double(model, FEED)
    std = std_of_trunks(*before[1:])
    names = [node.name for node in modulators(model.graph)]
    assert ExternalizeStatistics()(model).modified
    for found, expected in zip(run_double(model, {**FEED, "std": std}), before, strict=True):
        assert relative_error(found, expected) <= TOLERANCES["float64"]
    for other in (std[:, ::-1], std[::-1], std * 1.01):  # not by chance
        found, *_ = run_double(model, {**FEED, "std": other})
        assert relative_error(found, before[0]) > 1e-3

    kinds = {node.name: node.op_type for node in model.graph if node.domain}
    assert list(kinds) == names
    assert list(kinds.values()) == [
        "AdaDMModulateExternal",
        "AdaDMModulateShiftedExternal",
        "AdaDMModulateExternal",
    ]
    assert {name for _, name, _ in model.functions} == set(kinds.values())


def test_the_input_has_one_std_for_each_modulator() -> None:
    model = graph(THREE)
    output = ir.to_proto(model).graph.output[0]
    ExternalizeStatistics()(model)
    *_, std = model.graph.inputs
    assert (std.name, std.dtype) == ("std", ir.DataType.FLOAT)
    assert std.shape is not None
    assert [str(side) for side in std.shape] == ["N", "3", "1", "1"]
    assert ir.to_proto(model).graph.output[0] == output


@pytest.mark.parametrize("body", [THREE, f"y = adadm.{PLAIN} (x, r)"])
def test_twice_equals_once(body: str) -> None:
    model = graph(body)
    ExternalizeStatistics()(model)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not ExternalizeStatistics()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once


def test_without_a_modulator_it_is_left_alone() -> None:
    model = graph("c = Conv <pads = [1, 1, 1, 1]> (x, W3, B) y = Add (c, r)")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not ExternalizeStatistics()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_std_that_is_not_known_is_that_of_the_moments() -> None:
    """Of what is inside alone; and what is known wins, one modulator and image at a time."""
    model = graph(THREE, outputs="y u v")
    ReturnMoments()(model)
    assert ExternalizeStatistics()(model).modified
    rows, columns = np.zeros((2, 1, 7, 1)), np.zeros((2, 1, 1, 6))
    rows[:, :, 1:6], columns[..., 2:] = 1, 1
    feed = {**FEED, "rows_inside": rows, "columns_inside": columns}

    def deviations(std: Array) -> Array:
        (moments,) = run_double(model, {**feed, "std": std})
        count, _, squares = moments.transpose(2, 0, 1)
        assert (count == CHANNELS * 5 * 4).all()
        return np.asarray(np.sqrt(squares / (count - 1))[..., None, None])

    own = deviations(np.zeros((2, 3, 1, 1)))
    np.testing.assert_allclose(own[:, :1], std_of(FEED["x"][:, :, 1:6, 2:]))
    np.testing.assert_allclose(deviations(np.full((2, 3, 1, 1), -1.0)), own)
    np.testing.assert_allclose(deviations(own), own)

    known = np.zeros((2, 3, 1, 1))
    known[0, 0] = 3 * own[0, 0]  # the first trunk of the first image, which the others follow
    forced = deviations(known)
    np.testing.assert_allclose(forced[1], own[1])
    np.testing.assert_allclose(forced[0, 0], own[0, 0])
    assert CENTER is not None
    factor = np.exp(np.float32(0.9) * np.log(known[0, 0]) + np.float32(0.1))
    u = FEED["x"][:1] + FEED["r"][:1] * factor - CENTER.numpy()
    np.testing.assert_allclose(forced[:1, 1:2], std_of(u[:, :, 1:6, 2:]))
    assert np.abs(forced[0, 1] / own[0, 1] - 1) > 0.1
