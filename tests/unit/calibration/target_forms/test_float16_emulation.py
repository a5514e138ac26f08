from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from adadm.calibration.target_forms.float16_emulation import rounded_to_half
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Half = npt.NDArray[np.float16]

BINARY: dict[str, Callable[[Half, Half], Half]] = {
    "Add": np.add,
    "Div": np.divide,
    "Max": np.maximum,
    "Mul": np.multiply,
    "Sub": np.subtract,
}


def typed(body: str) -> onnx.ModelProto:
    """A model that reads float32 `x` and returns float32 `y`, with the float16 constant `four`."""
    return parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 19, "own" : 1]>
        tested (float[N] x) => (float[N] y) {{
            h = Cast <to = 10> (x)
            number = Constant <value_float = 4.0> ()
            four = Cast <to = 10> (number)
            {body}
        }}
        <domain: "own", opset_import: ["" : 19]>
        Chain (a, f) => (c) {{ b = Mul (a, f) c = Div (b, f) }}"""
    )


def run(model: onnx.ModelProto, *numbers: float) -> npt.NDArray[Any]:
    feed = {"x": np.array(numbers, np.float32)}
    return OnnxRuntimeSession(model.SerializeToString()).run(feed)["y"]


@pytest.mark.parametrize("body", ["b = own.Chain (h, four)", "a = Mul (h, four) b = Div (a, four)"])
def test_what_overflows_is_infinite(body: str) -> None:
    """50000 * 4 / 4, which ONNX Runtime's float16 kernels return as 50000."""
    model = typed(f"{body} y = Cast <to = 1> (b)")
    assert run(model, 50000) == 50000
    np.testing.assert_array_equal(run(rounded_to_half(model), 50000, 3), [np.inf, 3])


def test_what_is_float32_is_not_rounded() -> None:
    model = typed(
        "w = Cast <to = 1> (h) f = Cast <to = 1> (four) s = Mul (w, w) t = Add (s, f) "
        "n = Cast <to = 10> (t) m = CastLike (t, h) d = Sub (n, m) e = Cast <to = 1> (d) "
        "y = Add (t, e)"
    )
    (found,) = run(rounded_to_half(model), 1 / 3)
    third = np.float32(np.float16(1 / 3))
    assert found == third * third + 4 != np.float16(found)


def test_a_relu_is_rounded_once_with_the_convolution_before_it() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float16)
    half = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 19]>
        g (float16[1, 3, 6, 7] x) => (float16[1, 4, 6, 7] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            y = Relu (c)
        }"""
    )
    half.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = rounded_to_half(half)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu", "Cast", "Cast"]
    x = rng.normal(size=(1, 3, 6, 7)).astype(np.float32)
    (found,) = OnnxRuntimeSession(model.SerializeToString()).run({"x": x}).values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.astype(np.float16))
    assert 0 < (found == 0).mean() < 1


def test_scales_of_quantized_values_may_be_half() -> None:
    model = typed(
        "scale = Div (four, four) zero = Constant <value = int8 {0}> () "
        "q = QuantizeLinear (h, scale, zero) d = DequantizeLinear (q, scale, zero) "
        "y = Cast <to = 1> (d)"
    )
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(rounded_to_half(model), 2.6, -300, 2.5), [3, -128, 2])


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Operators, each with the numbers of two values that are there before it."""
    count = draw(st.integers(1, 8))
    operators = st.sampled_from([*BINARY, "Relu"])
    return [
        (draw(operators), draw(st.integers(0, i)), draw(st.integers(0, i))) for i in range(count)
    ]


@given(chains(), st.integers(0, 2**32 - 1))
def test_random_graphs_equal_numpy_in_half_precision(
    chain: list[tuple[str, int, int]], seed: int
) -> None:
    numbers = np.random.default_rng(seed).normal(0, 60, 500).astype(np.float32)
    values, body = [numbers.astype(np.float16)], ["v0 = Identity (h)"]
    with np.errstate(all="ignore"):
        for index, (op_type, first, second) in enumerate(chain, 1):
            a, b = values[first], values[second]
            if op_type == "Relu":
                values.append(np.maximum(a, np.float16(0)))
                body.append(f"v{index} = Relu (v{first})")
            else:
                values.append(BINARY[op_type](a, b))
                body.append(f"v{index} = {op_type} (v{first}, v{second})")
    model = rounded_to_half(typed(" ".join([*body, f"y = Cast <to = 1> (v{len(chain)})"])))
    found = run(model, *numbers)
    expected = values[-1].astype(np.float32)
    known = ~np.isnan(expected)  # ONNX Runtime's Relu and Max of NaN are not NumPy's
    np.testing.assert_array_equal(found[known], expected[known])
