from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from _support.exports import traced
from _support.graphs import from_text
from adadm.calibration.passes import LowerToHalf
from adadm.export.tile_models import tile_graphs
from adadm.runtime.errors import ExportError

HALF, SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
CONV = "Conv <pads = [1, 1, 1, 1]>"


def graph(
    body: str, inputs: str = "float[N,3,H,W] x", outputs: str = "float[N,3,H,W] y", opset: int = 19
) -> ir.Model:
    """Constants: W (weights, 3 to 3 channels, one of them tiny), E (1, 3, 1, 1), of int8 Q, zero
    (0), scale (3,), step (a scalar), twice (the sides), and large (70000)."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.5, (3, 3, 3, 3))
    weight[0, 0, 0, 0] = 2e-5
    constants: dict[str, npt.NDArray[Any]] = {
        "W": weight.astype(np.float32),
        "E": rng.normal(0, 0.5, (1, 3, 1, 1)).astype(np.float32),
        "Q": rng.integers(-127, 128, (3, 3, 3, 3)).astype(np.int8),
        "zero": np.array(0, np.int8),
        "zeros": np.zeros(3, np.int8),
        "scale": np.array([0.25, 0.5, 0.125], np.float32),
        "step": np.array(0.5, np.float32),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "large": np.array(70000, np.float32),
    }
    return from_text(body, inputs, outputs, constants, opset)


def lowered(model: ir.Model, wide: Collection[str] = ()) -> dict[str, ir.DataType]:
    """The type of every value that a node returns, after the pass; the result is checked."""
    assert LowerToHalf(wide)(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [v.dtype for v in (*model.graph.inputs, *model.graph.outputs)].count(HALF) == 0
    return {str(v.name): v.dtype for node in model.graph for v in node.outputs if v.dtype}


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_everything_is_half_between_two_casts() -> None:
    model = graph(f"c = {CONV} (x, W) r = Relu (c) y = Add (r, E)")
    types = lowered(model)
    assert operators(model) == ["Cast", "Conv", "Relu", "Add", "Cast"]
    assert types == {"x.float16": HALF, "c": HALF, "r": HALF, "y.float16": HALF, "y": SINGLE}
    assert {value.dtype for value in model.graph.initializers.values()} == {HALF}


def test_twice_equals_once() -> None:
    model = graph(f"a = {CONV} (x, W) b = Neg (a) y = {CONV} (b, W)")
    lowered(model, wide=["a"])
    assert not LowerToHalf()(model).modified


def test_a_node_that_reads_or_writes_a_wide_value_computes_in_float32() -> None:
    model = graph(
        f"a = {CONV} (x, W) b = Relu (a) c = {CONV} (b, W) d = Add (c, E) y = {CONV} (d, W)"
    )
    types = lowered(model, wide=["c"])
    assert (types["a"], types["b"]) == (HALF, HALF)
    assert (types["b.float"], types["c"], types["d"]) == (SINGLE, SINGLE, SINGLE)
    assert types["d.float16"] == HALF
    assert operators(model).count("Cast") == 4
    assert {"W", "W.float16", "E"} == set(model.graph.initializers)


def test_moves_have_the_type_of_what_they_read() -> None:
    model = graph(
        "a = Relu (x) b = Neg (a) c = Transpose <perm = [0, 1, 3, 2]> (b) "
        "d = Transpose <perm = [0, 1, 3, 2]> (c) y = Concat <axis = 0> (d, a)"
    )
    types = lowered(model, wide=["b"])
    assert (types["c"], types["d"], types["y.float16"]) == (SINGLE, SINGLE, HALF)


def test_statistics_stay_float32() -> None:
    model = graph(
        f"m = ReduceMean <keepdims = 1> (x) d = Sub (x, m) n = {CONV} (d, W) "
        "y = InstanceNormalization (n, g, g)",
        inputs="float[N,3,H,W] x, float[3] g",
    )
    types = lowered(model)
    assert types == {
        "m": SINGLE,
        "x.float16": HALF,
        "m.float16": HALF,
        "d": HALF,
        "n": HALF,
        "n.float": SINGLE,
        "y": SINGLE,
    }


def test_sizes_stay_float32() -> None:
    """2049 has no float16."""
    model = graph(
        "s = Shape (x) f = Cast <to = 1> (s) t = Mul (f, step) u = Sqrt (t) i = Cast <to = 7> (u) "
        "h = Relu (x) y = Expand (h, i)"
    )
    types = lowered(model)
    assert (types["f"], types["t"], types["u"], types["h"]) == (SINGLE, SINGLE, SINGLE, HALF)


def test_what_an_operator_reads_as_float32_stays_so() -> None:
    model = graph('h = Relu (x) y = Resize <mode = "nearest"> (h, , twice)')
    resize = next(node for node in model.graph if node.op_type == "Resize")
    lowered(model)
    assert [v and v.dtype for v in resize.inputs] == [HALF, None, SINGLE]


def test_images_are_read_as_half() -> None:
    model = graph(
        f"f = Cast <to = 1> (x) y = {CONV} (f, W)",
        inputs="uint8[N,3,H,W] x",
    )
    types = lowered(model)
    assert types["f"] == HALF
    assert operators(model) == ["Cast", "Conv", "Cast"]


QUANTIZED = (
    "h = Relu (x) q = QuantizeLinear (h, step, zero) d = DequantizeLinear (q, step, zero) "
    f"w = DequantizeLinear <axis = 0> (Q, scale, zeros) y = {CONV} (d, w)"
)


def test_scales_of_quantized_values_have_the_type_of_the_data() -> None:
    model = graph(QUANTIZED)
    types = lowered(model)
    assert [types[name] for name in ("h", "q", "d", "w")] == [HALF, ir.DataType.INT8, HALF, HALF]
    kinds = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert kinds["Q"] == ir.DataType.INT8
    assert kinds["step.float16"] == kinds["scale.float16"] == HALF
    assert operators(model).count("Cast") == 2


def test_quantized_convolutions_are_float32_where_the_opset_knows_no_half_scale() -> None:
    model = graph(f"{QUANTIZED} ".replace("y =", "c =") + "y = Neg (c)", opset=17)
    types = lowered(model)
    assert [types[name] for name in ("d", "w", "c", "c.float16")] == [SINGLE] * 3 + [HALF]


@pytest.mark.parametrize("form", ["", "WithFactor"])
def test_a_modulator_reads_its_center_in_float32_and_its_delta_as_the_trunk(form: str) -> None:
    results = "y, f" if form else "y"
    model = graph(
        f"r = {CONV} (x, W) {results} = adadm.AdaDMModulateShifted{form} "
        "<weight = 0.9, bias = 0.1> (x, r, E, E)"
    )
    lowered(model)
    node = next(node for node in model.graph if node.domain)
    assert [v and v.dtype for v in node.inputs] == [HALF, HALF, SINGLE, HALF]
    assert {v.dtype for v in node.outputs} == {HALF}


def test_group_normalization_reads_its_parameters_in_float32() -> None:
    model = graph("y = adadm.GroupNorm <num_groups = 3, epsilon = 0.00001> (x, scale, scale)")
    lowered(model)
    node = next(node for node in model.graph if node.domain)
    assert [v and v.dtype for v in (*node.inputs, *node.outputs)] == [HALF, SINGLE, SINGLE, HALF]


def test_the_models_for_tiles_keep_statistics_and_factors_apart() -> None:
    _, model = traced("edsr", 2)
    tile, moments = tile_graphs(model)
    types = lowered(moments)
    assert {types[name] for name in ("inside", "moments", "body.0.phi.moments")} == {SINGLE}
    assert {types[name] for name in ("body.0.phi", "body.0.conv2")} == {HALF}
    assert lowered(tile)["body.2.phi.known_std"] == SINGLE
    assert all(v.dtype == SINGLE for node in model.graph for v in node.outputs)  # a clone's twin


def test_attention_and_its_weights_are_float32() -> None:
    _, model = traced("nlsn", 2)
    types = lowered(model)
    weighing = [node for node in model.graph if node.op_type in ("Softmax", "SparseAttentionRound")]
    assert len(weighing) == 6
    assert {v.dtype for n in weighing for v in n.outputs} == {SINGLE, ir.DataType.INT64}
    assert {v.dtype for n in weighing for v in n.inputs if v is not None} == {SINGLE}
    assert types["body.0.conv_assembly.0"] == types["body.1.conv1"] == HALF


def test_constants_that_lose_digits_are_listed() -> None:
    lowering = LowerToHalf()
    lowering(graph(f"c = {CONV} (x, W) y = Add (c, E)"))
    assert lowering.subnormal == {"W": 1 / 81}


def test_a_constant_that_overflows_is_refused_unless_it_stays_float32() -> None:
    body = "y = Mul (x, large)"
    with pytest.raises(
        ExportError, match=r"large has values up to 7e\+04; limit of float16: 65504"
    ):
        LowerToHalf()(graph(body))
    model = graph(body)
    lowered(model, wide=["y"])
    assert set(model.graph.initializers) == {"large"}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ExportError, match="nobody, nothing cannot stay float32"):
        LowerToHalf(["nothing", "nobody", "y"])(graph("y = Relu (x)"))
