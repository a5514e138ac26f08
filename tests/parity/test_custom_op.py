"""A runtime that knows the modulator replaces its body."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime_extensions as extensions
import pytest
from onnxruntime_extensions import PyCustomOpDef, onnx_op

from _support.exports import exported
from _support.parity import assert_parity
from adadm.export import Options
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

FLOAT = PyCustomOpDef.dt_float
calls: list[float] = []
deviation_of_factor = 1.0


@onnx_op(  # type: ignore[untyped-decorator]
    op_type="adadm::AdaDMModulateShifted",
    inputs=[FLOAT] * 4,
    outputs=[FLOAT],
    attrs={"weight": FLOAT, "bias": FLOAT},
)
def modulate(x: Any, r: Any, center: Any, delta: Any, **attributes: float) -> Any:
    """The formula in numpy, float64 inside, times a number that the test sets."""
    calls.append(attributes["weight"])
    std = (x.astype(np.float64) - center).std(axis=(1, 2, 3), ddof=1, keepdims=True)
    factor = np.exp(attributes["weight"] * np.log(std) + attributes["bias"])
    return (x + delta + r * factor * deviation_of_factor).astype(np.float32)


def test_a_custom_op_takes_the_place_of_the_function() -> None:
    global deviation_of_factor
    _, model, _ = exported("edsr", 2, Options())
    content = model.SerializeToString()
    lr = np.random.default_rng(0).uniform(0, 255, (2, 3, 15, 18)).astype(np.float32)
    expected = OnnxRuntimeSession(content).run({"lr": lr})["sr"]

    session = OnnxRuntimeSession(content, custom_ops=[extensions.get_library_path()])
    calls.clear()
    assert_parity(session.run({"lr": lr})["sr"], expected, "float32")
    weights = [n.attribute[0].f for n in model.graph.node if n.op_type.startswith("AdaDM")]
    assert sorted(calls) == pytest.approx(sorted(weights), rel=1e-5)  # it passes six digits

    deviation_of_factor = 1.25
    try:
        other = session.run({"lr": lr})["sr"]
    finally:
        deviation_of_factor = 1.0
    assert np.abs(other - expected).max() > 1e-2 * np.abs(expected).max()
