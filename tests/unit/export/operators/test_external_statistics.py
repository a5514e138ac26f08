"""The operators of tiles against their formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from _support.graphs import operator
from adadm.export.operators.external_statistics import (
    FUNCTIONS,
    MOMENTS,
    MOMENTS_SHIFTED,
    STANDARD_DEVIATION,
)
from adadm.runtime.errors import ExportError
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Array = npt.NDArray[Any]
OPSETS = (17, 18, 19, 20)
MODULATORS = tuple(
    f"AdaDMModulate{shifted}External{limited}"
    for shifted in ("", "Shifted")
    for limited in ("", "Limited")
)
LIMIT = 30.0
OF_MOMENTS = (MOMENTS, MOMENTS_SHIFTED)

KINDS = {
    **dict.fromkeys(("x", "r", "y"), "DATA[N,C,H,W]"),
    **dict.fromkeys(("center", "delta"), "DATA[1,C,1,1]"),
    **dict.fromkeys(("std", "known", "chosen"), "float[N,1,1,1]"),
    "inside": "float[N,1,H,W]",
    "moments": "float[N,1,3]",
}

every_opset = pytest.mark.parametrize("opset", OPSETS)
every_modulator = pytest.mark.parametrize("name", MODULATORS)
every_moments = pytest.mark.parametrize("name", OF_MOMENTS)


def run(
    name: str,
    feed: dict[str, Array],
    opset: int = 19,
    dtype: str = "float",
    limit: float = LIMIT,
    **attributes: float,
) -> Array:
    """The result of one operator; of the feed it takes what it reads."""
    function: onnx.FunctionProto = ir.to_proto(FUNCTIONS[name](opset))
    inputs, outputs = (
        {value: KINDS[value].replace("DATA", dtype) for value in values}
        for values in (function.input, function.output)
    )
    if "Limited" in name:
        attributes["limit"] = limit
    model = operator(name, inputs, outputs, opset, **attributes)
    session = OnnxRuntimeSession(model.SerializeToString())
    (result,) = session.run({value: feed[value] for value in inputs}).values()
    return result


def moments_of(u: Array, inside: Array) -> Array:
    """Count, mean and squares (N, 1, 3) of what is inside, image by image."""
    rows = []
    for image, mask in zip(u.astype(np.float64), inside, strict=True):
        values = image[:, mask[0] > 0]
        mean = values.mean()
        rows.append([[values.size, mean, ((values - mean) ** 2).sum()]])
    return np.array(rows)


def scattered(shape: tuple[int, ...], seed: int = 1) -> Array:
    """About half of the pixels of each image, others in each."""
    batch, _, height, width = shape
    mask = np.random.default_rng(seed).uniform(size=(batch, 1, height, width)) < 0.5
    return mask.astype(np.float32)


@every_opset
@every_modulator
def test_modulators_agree_with_the_formula(name: str, opset: int) -> None:
    rng = np.random.default_rng(opset)
    x, r = rng.normal(3, 20, (2, 3, 5, 4, 7)).astype(np.float32)
    delta = rng.normal(0, 30, (1, 5, 1, 1)).astype(np.float32)
    std = np.array([0.04, 7, 53], np.float32).reshape(3, 1, 1, 1)
    feed = {"x": x, "r": r, "delta": delta, "std": std}
    found = run(name, feed, opset, weight=0.87, bias=-0.3)

    seen = np.minimum(std, LIMIT) if "Limited" in name else std
    factor = np.exp(0.87 * np.log(seen.astype(np.float64)) - 0.3)
    expected = x + delta * ("Shifted" in name) + r * factor
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("weight", [0.9, 0.0, -0.9])
@every_modulator
def test_without_deviation_the_factor_is_zero(name: str, weight: float) -> None:
    """For an image of the batch, and not for the one beside it."""
    rng = np.random.default_rng(0)
    x, r = rng.normal(0, 2, (2, 3, 4, 5, 6)).astype(np.float32)
    delta = np.full((1, 4, 1, 1), 0.5, np.float32)
    std = np.array([0, -1, 2], np.float32).reshape(3, 1, 1, 1)
    found = run(name, {"x": x, "r": r, "delta": delta, "std": std}, weight=weight, bias=0.2)
    trunk = x + delta if ("Shifted" in name) else x
    np.testing.assert_array_equal(found[:2], trunk[:2])
    assert np.abs(found[2] - trunk[2]).max() > 0.5


@every_modulator
def test_the_exponent_is_capped(name: str) -> None:
    """At 80: of 207, float32 has no exponential."""
    x = np.zeros((1, 2, 3, 4), np.float32)
    feed = {"x": x, "delta": np.zeros((1, 2, 1, 1), np.float32)}
    feed |= {"r": np.full_like(x, 1e-30), "std": np.full((1, 1, 1, 1), 1e30, np.float32)}
    found = run(name, feed, weight=3.0, bias=0.0, limit=1e30)
    np.testing.assert_allclose(found, 1e-30 * np.exp(80), rtol=1e-5)


@every_modulator
def test_half_precision_takes_a_std_beyond_its_range(name: str) -> None:
    rng = np.random.default_rng(0)
    x, r = rng.normal(0, 3, (2, 1, 3, 8, 9)).astype(np.float16)
    delta = rng.normal(0, 3, (1, 3, 1, 1)).astype(np.float16)
    std = np.full((1, 1, 1, 1), 1e5, np.float32)
    feed = {"x": x, "r": r, "delta": delta, "std": std}
    found = run(name, feed, dtype="float16", weight=0.5, bias=0.1, limit=2e5)
    assert found.dtype == np.float16
    wide = {key: value.astype(np.float64) for key, value in feed.items()}
    expected = wide["x"] + wide["r"] * np.exp(0.5 * np.log(1e5) + 0.1)
    expected += wide["delta"] * ("Shifted" in name)
    np.testing.assert_allclose(found, expected, rtol=3e-3, atol=0.02)


@every_opset
@every_moments
def test_moments_are_those_of_what_is_inside(name: str, opset: int) -> None:
    rng = np.random.default_rng(opset)
    x = rng.normal(3, 20, (2, 5, 6, 7))
    x += rng.normal(0, 30, (1, 5, 1, 1))
    x[1] *= 0.1
    center = rng.normal(0, 30, (1, 5, 1, 1)).astype(np.float32)
    inside = scattered(x.shape)
    feed = {"x": x.astype(np.float32), "center": center, "inside": inside}
    found = run(name, feed, opset)
    assert found.dtype == np.float32
    moved = feed["x"].astype(np.float64) - center * (name == MOMENTS_SHIFTED)
    np.testing.assert_allclose(found, moments_of(moved, inside), rtol=1e-5)
    everywhere = moments_of(moved, np.ones_like(inside))
    assert (np.abs(found / everywhere - 1) > 1e-3).all()  # the halo would show


@every_moments
def test_nothing_inside_is_nothing_and_finite(name: str) -> None:
    x = np.random.default_rng(0).normal(3, 20, (2, 5, 6, 7)).astype(np.float32)
    inside = np.zeros((2, 1, 6, 7), np.float32)
    inside[1, 0, 2, 3] = 1
    center = np.full((1, 5, 1, 1), 9, np.float32)
    found = run(name, {"x": x, "center": center, "inside": inside})
    assert np.isfinite(found).all()
    assert found[:, 0, 0].tolist() == [0, 5]
    assert found[0, 0, 2] == 0
    squares = 4 * x[1, :, 2, 3].astype(np.float64).var(ddof=1)
    assert found[1, 0, 2] == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@every_moments
def test_a_mean_far_above_the_std_costs_no_digits(name: str, masked: bool) -> None:
    """Bare sums of squares in float32 would be off by 3e-4 of the std at 100."""
    rng = np.random.default_rng(0)
    shape = (1, 16, 135, 240)
    center = rng.normal(0, 5, (1, 16, 1, 1)).astype(np.float32)
    moved = name == MOMENTS_SHIFTED
    x = (rng.normal(100, 1, shape) + center * moved).astype(np.float32)
    inside = scattered(shape) if masked else np.ones((1, 1, *shape[2:]), np.float32)
    count, mean, squares = run(name, {"x": x, "center": center, "inside": inside})[0, 0]
    wanted = moments_of(x.astype(np.float64) - center * moved, inside)[0, 0]
    assert count == wanted[0]
    assert mean == pytest.approx(wanted[1], rel=1e-6)
    assert np.sqrt(squares) == pytest.approx(np.sqrt(wanted[2]), rel=1e-5)


@every_moments
def test_moments_of_half_precision_are_in_single(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2000, (1, 3, 16, 16)).astype(np.float16)
    center = rng.uniform(0, 500, (1, 3, 1, 1)).astype(np.float16)
    inside = scattered(x.shape)
    feed = {"x": x, "center": center, "inside": inside}
    found = run(name, feed, dtype="float16")
    assert found.dtype == np.float32
    moved = x.astype(np.float64) - center * (name == MOMENTS_SHIFTED)
    np.testing.assert_allclose(found, moments_of(moved, inside), rtol=1e-5)


@every_opset
def test_a_std_that_is_known_wins(opset: int) -> None:
    rows = [  # count, mean, squares; known; the result
        ((10, 4, 90), 2.5, 2.5),
        ((10, 4, 90), 0, 10**0.5),
        ((21, 4, 90), -3, 4.5**0.5),
        ((10, 4, 90), 1e-30, 1e-30),
        ((1, 4, 0), 0, 0),
        ((0, 0, 0), 0, 0),
        ((0, 0, 0), 7, 7),
    ]
    moments = np.array([[row[0]] for row in rows], np.float32)
    known = np.array([row[1] for row in rows], np.float32).reshape(-1, 1, 1, 1)
    found = run(STANDARD_DEVIATION, {"moments": moments, "known": known}, opset)
    assert found.shape == known.shape
    np.testing.assert_allclose(found.ravel(), [row[2] for row in rows], rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_older_opset_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match="opset 17 or later, got 16"):
        FUNCTIONS[name](16)
