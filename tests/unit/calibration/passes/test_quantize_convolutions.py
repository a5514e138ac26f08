from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch

from _support.graphs import from_text
from adadm.calibration.passes import QuantizeConvolutions
from adadm.calibration.passes.quantize_convolutions import half_scale
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Array = npt.NDArray[Any]
INPUTS, OUTPUTS, GROUPS = 6, 4, 2


def convolution(group: int = 1, bias: bool = True) -> tuple[ir.Model, dict[str, Array]]:
    """Two convolutions that read `lr`; returns the constants too."""
    rng = np.random.default_rng(0)
    gains = np.array([1e-7, 0.03, 1.0, 20.0]).reshape(-1, 1, 1, 1)
    constants = {
        f"{kind}{index}": values.astype(np.float32)
        for index in (0, 1)
        for kind, values in (
            ("W", rng.normal(0, 1, (OUTPUTS, INPUTS // group, 3, 3)) * gains),
            ("B", rng.normal(0, 1, OUTPUTS)),
        )
        if kind == "W" or bias
    }
    biases = (", B0", ", B1") if bias else ("", "")
    body = " ".join(
        f"conv{index} = Conv <pads = [1, 1, 1, 1], group = {group}> (lr, W{index}{biases[index]})"
        for index in (0, 1)
    )
    outputs = ", ".join(f"float[N,{OUTPUTS},H,W] conv{index}" for index in (0, 1))
    return from_text(body, f"float[N,{INPUTS},H,W] lr", outputs, constants), constants


def expected(x: Array, weight: Array, bias: Array, scale: float, mean: Array, group: int) -> Array:
    """INT8 by hand, in float64, from the definition."""
    levels = np.clip(np.rint(x.astype(np.float64) / scale), -128, 127) * scale
    scales = np.array([half_scale(np.abs(row).max()) for row in weight.astype(np.float64)])
    rounded = np.rint(weight / scales.reshape(-1, 1, 1, 1)) * scales.reshape(-1, 1, 1, 1)
    flat = np.zeros((1, INPUTS, 9, 9)) + mean.reshape(1, -1, 1, 1)
    lost = [
        torch.nn.functional.conv2d(torch.from_numpy(flat), torch.from_numpy(w), groups=group)
        for w in (weight.astype(np.float64), rounded)
    ]
    corrected = bias + (lost[0] - lost[1])[0, :, 3, 3].numpy()
    x_levels, w, b = (torch.from_numpy(values) for values in (levels, rounded, corrected))
    result: Array = torch.nn.functional.conv2d(x_levels, w, b, padding=1, groups=group).numpy()
    return result


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, GROUPS])
def test_computes_int8(group: int, bias: bool) -> None:
    model, constants = convolution(group, bias)
    rng = np.random.default_rng(1)
    x = rng.normal(0.4, 2, (2, INPUTS, 9, 11)).astype(np.float32)
    scale, mean = 0.0390625, x.mean(axis=(0, 2, 3)).astype(np.float64)
    quantizing = QuantizeConvolutions({"conv0": scale}, {"conv0": mean})
    assert quantizing(model).modified
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    found = OnnxRuntimeSession(proto.SerializeToString()).run({"lr": x})
    before = convolution(group, bias)[0]
    untouched = OnnxRuntimeSession(ir.to_proto(before).SerializeToString()).run({"lr": x})
    np.testing.assert_array_equal(found["conv1"], untouched["conv1"])
    by_hand = expected(
        x, constants["W0"], constants.get("B0", np.zeros(OUTPUTS)), scale, mean, group
    )
    np.testing.assert_allclose(found["conv0"], by_hand, rtol=1e-5, atol=1e-4)
    assert np.abs(found["conv0"] - untouched["conv0"]).max() > 0.01


def test_types_and_places() -> None:
    model, _ = convolution()
    scales = dict.fromkeys(("conv0", "conv1"), 0.25)
    QuantizeConvolutions(scales, dict.fromkeys(scales, np.zeros(INPUTS)))(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("QuantizeLinear") == 1  # both read one value at one scale
    assert kinds.count("DequantizeLinear") == 3
    for node in model.graph:
        if node.op_type.endswith("Linear"):
            scale, zero = (value.const_value for value in node.inputs[1:3] if value is not None)
            assert scale is not None and scale.dtype == ir.DataType.FLOAT
            assert zero is not None and zero.dtype == ir.DataType.INT8
            assert not zero.numpy().any()
        elif node.op_type == "Conv":
            bias = node.inputs[2]
            assert bias is not None and bias.dtype == ir.DataType.FLOAT
            assert not node.outputs[0].uses()
    assert not {"W0", "W1"} & set(model.graph.initializers)


def test_another_scale_is_another_pair() -> None:
    model, _ = convolution()
    scales = {"conv0": 0.25, "conv1": 0.5}
    QuantizeConvolutions(scales, dict.fromkeys(scales, np.zeros(INPUTS)))(model)
    assert [node.op_type for node in model.graph].count("QuantizeLinear") == 2


def test_leaves_alone_what_is_not_named() -> None:
    model, _ = convolution()
    assert not QuantizeConvolutions({"other": 0.5}, {})(model).modified


def test_scales_are_exact_in_half_precision_and_hold_the_largest() -> None:
    largest = np.geomspace(1e-9, 1e5, 400)
    scale = half_scale(largest)
    np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float64), scale)
    assert (scale * 127 >= largest).all()
    tight = largest / 127 > 2.0**-14
    assert (scale[tight] * 127 <= largest[tight] * 1.001).all()
    assert scale.min() == 2.0**-14
