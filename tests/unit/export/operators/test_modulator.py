from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxsim
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from _support.double_precision import promote
from _support.graphs import from_text, operator
from adadm.export.networks.blocks import Modulator
from adadm.export.operators.modulator import (
    SIGNATURES,
    Signature,
    find_inlined,
    modulator_function,
    signature,
)
from adadm.export.passes import InlineFunctions
from adadm.runtime.errors import ExportError
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Array = npt.NDArray[Any]
OPSETS = (17, 18, 19, 20)
LIMIT = 15.0


def model_of(
    signature: Signature,
    opset: int,
    weight: float,
    bias: float,
    dtype: str = "float",
    limit: float = 20.0,
) -> onnx.ModelProto:
    """A model of one modulator and nothing else."""
    kinds = {
        **dict.fromkeys(("x", "r", "y"), f"{dtype}[N,C,H,W]"),
        **dict.fromkeys(("center", "delta"), f"{dtype}[1,C,1,1]"),
        "factor": f"{dtype}[N,1,1,1]",
    }
    inputs, outputs = (
        {name: kinds[name] for name in names} for names in (signature.inputs, signature.outputs)
    )
    numbers = {"weight": weight, "bias": bias, "limit": limit}
    attributes = {name: numbers[name] for name in signature.attributes}
    return operator(signature.name, inputs, outputs, opset, **attributes)


def modulate(x: Array, r: Array, weight: float, bias: float, opset: int = 19) -> Array:
    model = model_of(SIGNATURES["AdaDMModulate"], opset, weight, bias)
    return OnnxRuntimeSession(model.SerializeToString()).run({"x": x, "r": r})["y"]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES.keys())
def test_every_signature_agrees_with_the_formula(signature: Signature, opset: int) -> None:
    """With one image below the limit, and one above it."""
    rng = np.random.default_rng(opset)
    x, r = rng.normal(3, 20, (2, 2, 5, 4, 7)).astype(np.float32)
    x[0] *= np.float32(0.5)
    center, delta = rng.normal(0, 30, (2, 1, 5, 1, 1)).astype(np.float32)
    weight, bias = np.float32(0.87), np.float32(-0.3)
    feed = {"x": x + center if signature.shifted else x, "r": r, "center": center, "delta": delta}
    model = model_of(signature, opset, float(weight), float(bias), limit=LIMIT)
    session = OnnxRuntimeSession(model.SerializeToString())
    results = session.run({name: feed[name] for name in signature.inputs})

    std = x.astype(np.float64).reshape(2, -1).std(axis=1, ddof=1).reshape(2, 1, 1, 1)
    assert std[0] < LIMIT < std[1]
    seen = np.minimum(std, LIMIT) if signature.limited else std
    factor = np.exp(float(weight) * np.log(seen) + float(bias))
    expected = x + (center + delta) * signature.shifted + r * factor
    np.testing.assert_allclose(results["y"], expected, rtol=0, atol=2e-4)
    if "factor" in signature.outputs:
        np.testing.assert_allclose(results["factor"], factor, rtol=2e-6)


@pytest.mark.parametrize("limit", [None, LIMIT])
@pytest.mark.parametrize("weight", [-0.6, 0.9])
def test_agrees_with_the_module(weight: float, limit: float | None) -> None:
    module = Modulator()
    module.weight.data.fill_(weight)
    assert module.bias is not None
    module.bias.data.fill_(0.4)
    module.limit = limit
    x, r = torch.randn(2, 3, 6, 5, 9) * torch.tensor([5, 20, 40]).reshape(3, 1, 1, 1)
    expected = module(x, r).detach().numpy()
    numbers = module.weight.item(), module.bias.item()
    model = model_of(signature(limited=limit is not None), 19, *numbers, limit=limit or 0.0)
    session = OnnxRuntimeSession(model.SerializeToString())
    result = session.run({"x": x.numpy(), "r": r.numpy()})["y"]
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("shifted", [False, True])
def test_below_its_limit_a_modulator_computes_the_same_bits(shifted: bool) -> None:
    rng = np.random.default_rng(0)
    x, r, center, delta = rng.normal(0, 9, (4, 2, 5, 8, 7)).astype(np.float32)
    feed = {"x": x, "r": r, "center": center[:1, :, :1, :1], "delta": delta[:1, :, :1, :1]}
    results = []
    for limited in (False, True):
        of = signature(shifted=shifted, limited=limited)
        session = OnnxRuntimeSession(model_of(of, 19, 0.93, 0.1, limit=12.0).SerializeToString())
        results.append(session.run({name: feed[name] for name in of.inputs})["y"])
    unlimited, limited_result = results
    np.testing.assert_array_equal(limited_result, unlimited)


def narrow(least: float, most: float) -> st.SearchStrategy[float]:
    """Numbers that an attribute holds, which is float32."""
    return st.floats(float(np.float32(least)), float(np.float32(most)), width=32)


@settings(max_examples=25)
@given(
    weight=narrow(0.05, 2),
    bias=narrow(-2, 2),
    limit=narrow(0.01, 500),
    ratios=st.lists(st.floats(0.01, 100), min_size=2, max_size=6),
    shifted=st.booleans(),
)
@example(weight=1.0, bias=0.0, limit=3.0, ratios=[0.5, 1.0, 2.0], shifted=False)
def test_the_factor_rises_up_to_its_limit_and_no_further(
    weight: float, bias: float, limit: float, ratios: list[float], shifted: bool
) -> None:
    """In float64, at deviations that are multiples of the limit."""
    stds = limit * np.array(sorted(ratios))
    noise = np.random.default_rng(0).normal(size=(3, 4, 5))
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    center = np.arange(3.0).reshape(1, 3, 1, 1) * shifted
    feed = {"x": stds.reshape(-1, 1, 1, 1) * noise + center, "r": np.ones((len(stds), 3, 4, 5))}
    feed |= {"center": center, "delta": np.zeros_like(center)} if shifted else {}
    factors = []
    for limited in (False, True):
        operator = signature(shifted=shifted, limited=limited, factor=True)
        model = model_of(operator, 19, weight, bias, dtype="double", limit=limit)
        promote(model.functions[0])
        _, factor = ReferenceEvaluator(model).run(None, feed)
        factors.append(np.asarray(factor, np.float64).ravel())
    free, held = factors
    expected = np.exp(weight * np.log(np.minimum(stds, limit)) + bias)
    np.testing.assert_allclose(held, expected, rtol=1e-10)
    assert (np.diff(held) >= -1e-12 * held[1:]).all()
    assert (held <= math.exp(weight * math.log(limit) + bias) * (1 + 1e-12)).all()
    below = stds < limit * (1 - 1e-9)
    np.testing.assert_array_equal(held[below], free[below])


@pytest.mark.parametrize("weight", [0.9, 0.0, -0.9])
@pytest.mark.parametrize("level", [0.0, 1.0, -7.25])
def test_constant_trunk_gives_the_factor_zero(weight: float, level: float) -> None:
    x = np.full((2, 3, 4, 5), level, np.float32)
    r = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    np.testing.assert_array_equal(modulate(x, r, weight, 0.2), x)
    if weight > 0:  # where PyTorch's own result is finite, it is the same
        with torch.inference_mode():
            assert torch.exp(weight * torch.from_numpy(x).std(dim=(1, 2, 3)).log()).max() == 0


@pytest.mark.parametrize("weight", [0.9, 0.0, -0.9, -3.0])
def test_std_whose_square_underflows_counts_as_zero(weight: float) -> None:
    x = np.random.default_rng(0).normal(0, 1e-30, (1, 3, 4, 5)).astype(np.float32)
    r = np.ones_like(x)
    np.testing.assert_array_equal(modulate(x, r, weight, 0.2), x)


@pytest.mark.parametrize("weight", [0.9, 0.0, -0.9])
def test_std_far_below_grey_levels_still_counts(weight: float) -> None:
    x = np.random.default_rng(0).normal(0, 1e-15, (1, 3, 4, 5)).astype(np.float32)
    r = np.full_like(x, 0.5)
    factor = np.exp(weight * np.log(x.astype(np.float64).std(ddof=1)) + 0.2)
    np.testing.assert_allclose(modulate(x, r, weight, 0.2), x + r * factor, rtol=1e-4)


@pytest.mark.parametrize(("weight", "expected"), [(-1.0, 69.0 + 0.2), (-3.0, 80.0)])
def test_exponent_is_capped(weight: float, expected: float) -> None:
    """Evaluated in float64, where the square of 1e-30 does not underflow."""
    model = model_of(SIGNATURES["AdaDMModulateWithFactor"], 19, weight, 0.2, dtype="double")
    promote(model.functions[0])
    x = np.tile([1e-30, -1e-30], (1, 2, 3, 4))
    _, factor = ReferenceEvaluator(model).run(None, {"x": x, "r": np.ones_like(x)})
    assert np.log(factor).item() == pytest.approx(expected, abs=0.2)
    assert np.isfinite(np.float32(factor)).all()


def test_statistics_stay_in_float32_for_half_precision_data() -> None:
    """Squares of 255 pass 65504 at once: in half precision the factor would be infinite."""
    model = model_of(SIGNATURES["AdaDMModulateWithFactor"], 19, 0.9, 0.1, dtype="float16")
    x = np.random.default_rng(0).uniform(0, 2000, (1, 3, 16, 16)).astype(np.float16)
    r = np.ones_like(x)
    result = OnnxRuntimeSession(model.SerializeToString()).run({"x": x, "r": r})
    factor = np.exp(0.9 * np.log(x.astype(np.float64).std(ddof=1)) + 0.1)
    np.testing.assert_allclose(result["factor"].item(), factor, rtol=1e-3)
    assert np.isfinite(result["y"]).all()


def test_large_images_keep_their_digits() -> None:
    """A single float32 chain over 64x270x480 values is off by 5e-4; three short ones are not."""
    x = (np.random.default_rng(0).normal(size=(1, 64, 270, 480)) ** 2 * 30).astype(np.float32)
    model = model_of(SIGNATURES["AdaDMModulateWithFactor"], 19, 1.0, 0.0)
    result = OnnxRuntimeSession(model.SerializeToString()).run({"x": x, "r": np.zeros_like(x)})
    std = x.astype(np.float64).std(ddof=1)
    assert result["factor"].item() == pytest.approx(std, rel=2e-6)


@pytest.mark.parametrize("simplified", [False, True])
@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize(("weight", "bias"), [(0.87, -0.3), (1.0, 0.0)])
@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES.keys())
def test_inlined_bodies_are_found(
    signature: Signature, weight: float, bias: float, dtype: str, simplified: bool
) -> None:
    proto = model_of(signature, 18, weight, bias, dtype)
    shift = np.ones((1, 5, 1, 1), np.float16 if dtype == "float16" else np.float32)
    for value in list(proto.graph.input)[2:]:
        proto.graph.input.remove(value)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(shift, value.name))
    model: ir.Model = ir.from_proto(proto)
    assert find_inlined(model.graph) == []
    InlineFunctions()(model)
    if simplified:
        model = ir.from_proto(onnxsim.simplify(ir.to_proto(model))[0])
    (found,) = find_inlined(model.graph)
    names = [value.name for value in (found.trunk, found.residual, found.result)]
    assert names == ["x", "r", "y"]
    assert [found.weight, found.bias] == pytest.approx([weight, bias])
    assert found.limit == (20.0 if signature.limited else math.inf)
    assert found.inner == set(model.graph)
    if "factor" in signature.outputs:
        assert found.factor.name == "factor"


@pytest.mark.parametrize(
    "body",
    [
        "y = Add (x, r)",
        "e = Exp (x) m = Mul (r, e) y = Add (x, m)",
        "l = Log (s) e = Exp (l) m = Mul (r, e) y = Add (x, m)",
    ],
    ids=["a sum", "no logarithm", "of another std"],
)
def test_other_sums_are_no_modulators(body: str) -> None:
    model = from_text(body, "float[N] x, float[N] r, float[N] s", "float[N] y", opset=18)
    assert find_inlined(model.graph) == []


def test_older_opset_is_refused() -> None:
    with pytest.raises(ExportError, match="opset 17 or later, got 16"):
        modulator_function(SIGNATURES["AdaDMModulate"], 16)


def test_export_without_frozen_constants_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(RuntimeError, match="freeze"):
        Modulator()(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3))
