from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from _support.exports import exported, exported_tiles
from _support.parity import photograph_like
from adadm.calibration.passes import QuantizeConvolutions
from adadm.calibration.target_forms.target_model import TargetModel, in_target_form
from adadm.export import Options
from adadm.export.passes import ExposeFactors
from adadm.runtime.errors import CalibrationError, ExportError
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.targets import TARGETS, Target

ORIN, OLD, CPU = (TARGETS[name] for name in ("jetson-orin-jp62", "jetson-orin-jp51", "cpu"))
HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
SIZE = (2, 23, 30)
STATISTICS = ("ReduceMean", "ReduceSumSquare", "ReduceSum", "Sqrt", "Log", "Exp", "Where")


def finished(architecture: str = "edsr", int8: bool = False, opset: int = 19) -> ir.Model:
    _, proto, _ = exported(architecture, 2, Options(opset=opset))
    model: ir.Model = ir.from_proto(proto)
    if int8:
        names = ("body.0.conv2", "body.1.conv1")
        QuantizeConvolutions(dict.fromkeys(names, 0.5), dict.fromkeys(names, np.zeros(12)))(model)
    return model


def run(model: onnx.ModelProto, **feed: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    return OnnxRuntimeSession(model.SerializeToString()).run(feed)


def formed(
    model: ir.Model,
    target: Target,
    half: bool = True,
    wide: Collection[str] = (),
    io: Literal["float32", "uint8"] = "float32",
) -> TargetModel:
    white = float(model.metadata_props.get("adadm.rgb_range", "255"))
    return in_target_form(model, target, half=half, rgb_range=white, wide=wide, io=io)


def counts(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("io", ["float32", "uint8"])
@pytest.mark.parametrize("of", {of.form: of for of in TARGETS.values()}.values())
def test_every_target_gets_what_it_reads(of: Target, io: Any, int8: bool) -> None:
    model = finished(int8=int8)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    form = formed(model, of, of.computes_half, io=io)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert form.model.opset_import[0].version == of.opset
    assert bool(form.model.functions) == of.functions
    graph = form.model.graph
    types = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    assert types == [SINGLE if io == "float32" else TensorProto.UINT8] * 2
    assert metadata(form.model)["adadm.io"] == io
    assert (HALF in {i.data_type for i in graph.initializer}) == (of.typing == "strong")
    levels = [len(i.dims) for i in graph.initializer if i.data_type == TensorProto.INT8]
    assert levels.count(4) == (2 if int8 and of.int8_constants else 0)
    assert counts(form.model)["DequantizeLinear"] == (4 if int8 else 0)
    assert counts(form.model)["QuantizeLinear"] == int8 * (2 if of.int8_constants else 4)
    names = [node.name for node in graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert [value.name for value in form.evaluated.graph.output] == ["sr"]
    pinned = bool(form.float32_layers)
    assert pinned == ("adadm.float32_layers" in metadata(form.model)) == of.is_weakly_typed


@pytest.mark.parametrize("of", [ORIN, OLD, CPU])
def test_in_float32_all_compute_what_the_graph_does(of: Target) -> None:
    model = finished(int8=True)
    form = formed(model, of, half=False)
    lr = photograph_like(SIZE)
    expected = run(ir.to_proto(model), lr=lr)["sr"]
    np.testing.assert_array_equal(run(form.evaluated, lr=lr)["sr"], expected)
    np.testing.assert_allclose(run(form.model, lr=lr)["sr"], expected, rtol=0, atol=1e-3)
    assert not form.float32_layers and "adadm.float32_layers" not in metadata(form.model)


@pytest.mark.parametrize("int8", [False, True])
def test_both_typings_are_evaluated_alike(int8: bool) -> None:
    """The builder of 8.x may round whatever is not pinned, which is what the other form rounds."""
    lr = photograph_like(SIZE)
    strong, weak = (
        run(formed(finished(int8=int8), of, io="uint8").evaluated, lr=lr)["sr"]
        for of in (ORIN, OLD)
    )
    np.testing.assert_array_equal(strong, weak)
    exact = run(ir.to_proto(finished(int8=int8)), lr=lr)["sr"]
    assert 0 < np.abs(strong - exact).max() < 1e-2 * np.abs(exact).max()


def test_exposed_factors_are_evaluated_too() -> None:
    plain, watched = finished(), finished()
    ExposeFactors()(watched)
    lr = photograph_like(SIZE)
    for of in (ORIN, OLD):
        expected = run(formed(plain, of).evaluated, lr=lr)
        found = run(formed(watched, of).evaluated, lr=lr)
        assert list(found) == ["sr", "factor_0", "factor_1", "factor_2"]
        assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(found["sr"], expected["sr"])


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("architecture", ["edsr", "nlsn"])
def test_the_statistics_are_pinned_and_nothing_of_the_trunk(architecture: str, opset: int) -> None:
    form = formed(finished(architecture, opset=opset), OLD, io="uint8")
    assert json.loads(metadata(form.model)["adadm.float32_layers"]) == list(form.float32_layers)
    graph: ir.Model = ir.from_proto(form.model)
    common.ShapeInferencePass()(graph)
    floats = [n for n in graph.graph if n.outputs[0].dtype == ir.DataType.FLOAT]
    pinned = {node.op_type for node in floats if node.name in form.float32_layers}
    free = {node.op_type for node in floats if node.name not in form.float32_layers}
    assert set(form.float32_layers) <= {node.name for node in floats}
    assert pinned.issuperset((*STATISTICS, "Clip", "Round"))
    assert free.isdisjoint((*STATISTICS, "Clip", "Round"))
    assert free.issuperset(("Conv", "Relu", "DepthToSpace", "Add"))
    assert pinned.isdisjoint(("Conv", "Relu", "DepthToSpace"))


def test_each_modulator_is_pinned_from_the_cast_to_float32_to_the_cast_back() -> None:
    form = formed(finished(), OLD)
    made = {node.output[0]: node for node in form.model.graph.node}
    products = [
        node
        for node in form.model.graph.node
        if node.op_type == "Mul" and node.name not in form.float32_layers
    ]
    assert len(products) == 3  # residual times factor, one a block
    for product in products:
        (cast_back,) = (made[name] for name in product.input if made[name].op_type == "Cast")
        assert cast_back.name not in form.float32_layers
        chain, waiting, casts = set(), [cast_back.input[0]], 0
        while waiting:
            node = made.get(waiting.pop())
            if node is None or node.name in chain or node.op_type in ("Shape", "Slice"):
                continue
            returns_bool = node.op_type == "Greater"
            assert returns_bool or node.name in form.float32_layers, node.name
            chain.add(node.name)
            is_cast = node.op_type == "Cast"
            casts += is_cast
            waiting += [] if is_cast else node.input
        assert casts == 3 and len(chain) > 15  # of the trunk, of its center, of its sizes


def test_wide_values_are_pinned_and_stay_float32() -> None:
    model = finished()
    for of in (ORIN, OLD):
        form = formed(model, of, wide={"body.1.conv1"})
        if of is OLD:
            assert (
                "body.1.conv1" in form.float32_layers and "body.1.conv2" not in form.float32_layers
            )
        assert run(form.evaluated, lr=photograph_like(SIZE))["sr"].dtype == np.float32
    with pytest.raises(ExportError, match="nowhere cannot stay float32"):
        formed(model, ORIN, wide={"nowhere"})


@pytest.mark.parametrize("which", ["tile", "moments"])
@pytest.mark.parametrize("of", [ORIN, OLD])
def test_models_for_tiles(of: Target, which: str) -> None:
    _, _, tiles = exported_tiles("edsr", 2, Options())
    model = getattr(tiles, which)
    form = formed(ir.from_proto(model), of, io="uint8")
    assert [v.name for v in form.model.graph.input] == [v.name for v in model.graph.input]
    assert [v.name for v in form.evaluated.graph.output] == [v.name for v in model.graph.output]
    assert bool(form.float32_layers) == (of is OLD)


def test_half_precision_is_refused_where_it_gains_nothing() -> None:
    with pytest.raises(CalibrationError, match=r"gains nothing on cpu.*--precision int8"):
        formed(finished(), CPU)


def test_an_operator_that_changed_is_refused_by_name() -> None:
    text = """<ir_version: 9, opset_import: ["" : 19]> g (float[N, 3] x) => (float[N, 3] y) {
        axes = Constant <value_ints = [1]> ()
        y = ReduceMax <noop_with_empty_axes = 1> (x, axes)
    }"""
    with pytest.raises(ExportError, match=r"ReduceMax .* changed between opset 19 and 17"):
        formed(ir.from_proto(parser.parse_model(text)), OLD, half=False)


@given(
    st.floats(-40, 20).map(lambda exponent: np.float32(2.0**exponent)),
    st.floats(-14, 14).map(lambda exponent: np.float16(2.0**exponent)),
    st.booleans(),
)
def test_float_weights_are_quantized_to_the_same_levels(
    single: np.float32, half: np.float16, per_channel: bool
) -> None:
    """Every level, for scales of any size, one a tensor or one a channel."""
    levels = np.arange(-128, 128, dtype=np.int8).reshape(2, 128)
    scale = np.array([single, half], np.float32)
    initializers = {
        "levels": levels,
        "scale": scale if per_channel else scale[0],
        "zero": np.zeros(2 if per_channel else (), np.int8),
    }
    node = helper.make_node(
        "DequantizeLinear", list(initializers), ["y"], name="dequantize", axis=0
    )
    graph = helper.make_graph(
        [node],
        "quantized",
        [helper.make_tensor_value_info("x", SINGLE, [1])],
        [helper.make_tensor_value_info("y", SINGLE, [2, 128])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    form = formed(ir.from_proto(model), OLD, half=False)
    assert [n.op_type for n in form.model.graph.node] == ["QuantizeLinear", "DequantizeLinear"]
    watched = onnx.ModelProto.FromString(form.model.SerializeToString())
    quantized = watched.graph.node[0].output[0]
    watched.graph.node.append(
        helper.make_node("Cast", [quantized], ["found"], to=TensorProto.INT64)
    )
    watched.graph.output.append(helper.make_tensor_value_info("found", TensorProto.INT64, [2, 128]))
    np.testing.assert_array_equal(run(watched, x=np.zeros(1, np.float32))["found"], levels)
