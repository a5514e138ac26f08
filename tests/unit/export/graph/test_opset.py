from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from _support.graphs import from_text
from adadm.export.graph.opset import set_opset
from adadm.runtime.errors import ExportError


def model(statements: str) -> ir.Model:
    constants = {
        "axis": np.array([3]),
        "sizes": np.array([0, 1, 2, -1]),
        "axes_shape": np.array([-1]),
        "twice": np.array([1, 1, 2, 2], np.float32),
    }
    return from_text(statements, "float[N,2,5,4] x", "float[A,B,C,D] y", constants, opset=18)


def run(made: ir.Model) -> np.ndarray:
    proto: onnx.ModelProto = ir.to_proto(made)
    onnx.checker.check_model(proto, full_check=True)
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 4)).astype(np.float32)
    result: np.ndarray = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("opset", [17, 19, 20])
@pytest.mark.parametrize(
    "statements",
    [
        "y = ReduceMean <keepdims = 1> (x, axis)",
        "l = Reshape (axis, axes_shape) y = ReduceMean <keepdims = 1> (x, l)",
        "y = ReduceMax <keepdims = 1, noop_with_empty_axes = 0> (x, axis)",
        "y = Reshape <allowzero = 0> (x, sizes)",
        'y = Resize <mode = "nearest", antialias = 0, nearest_mode = "floor", '
        'coordinate_transformation_mode = "asymmetric"> (x, , twice)',
        "y = AveragePool <kernel_shape = [2, 2]> (x)",
        "h = Cast <to = 10> (x) y = CastLike (h, x)",
    ],
)
def test_what_means_the_same_is_relabelled(statements: str, opset: int) -> None:
    made = model(statements)
    expected = run(made)
    set_opset(made, opset)
    assert made.opset_imports[""] == opset
    np.testing.assert_allclose(run(made), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("statements", "opset", "operator"),
    [
        ("y = GridSample (x, x)", 20, "GridSample"),  # its mode has other names
        ('y = GridSample <mode = "bilinear"> (x, x)', 20, "GridSample"),
        ("y = DFT (x)", 20, "DFT"),  # its axis became an input
        ('y = ScatterElements <reduction = "max"> (x, sizes, x)', 17, "ScatterElements"),
        ('y = Resize <antialias = 1, mode = "cubic"> (x, , twice)', 17, "Resize"),
        ("y = Mish (x)", 17, "Mish"),  # it did not exist
        ("n = Shape (x) a = Slice (n, axis, axis) y = ReduceSumSquare (x, a)", 17, "ReduceSumSq"),
    ],
)
def test_what_changed_is_refused(statements: str, opset: int, operator: str) -> None:
    made = model(statements)
    with pytest.raises(ExportError, match=f"{operator}.* changed between opset 18 and {opset}"):
        set_opset(made, opset)
    assert made.opset_imports[""] == 18
