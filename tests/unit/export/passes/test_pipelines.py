"""The passes together, on files that others made."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, parser

from _support.double_precision import relative_error, run_double
from _support.graphs import CHANNELS, graph
from _support.parity import TOLERANCES
from adadm.export import fold_batch_norm
from adadm.export.passes import ExposeFactors

FEED = {name: np.random.default_rng(3).normal(1, 3, (2, CHANNELS, 7, 6)) for name in "xr"}


def test_another_domain_is_left_alone() -> None:
    model = graph("c = Conv (x, W1, B) y = BatchNormalization (c, G, T, M, S)")
    node = list(model.graph)[1]
    node.domain, model.opset_imports["others"] = "others", 1
    assert fold_batch_norm(model) == []
    assert [n.op_type for n in model.graph] == ["Conv", "BatchNormalization"]


def test_training_mode_is_left_alone() -> None:
    model = graph(
        "c = Conv (x, W1, B) y, m, v = BatchNormalization <training_mode = 1> (c, G, T, M, S)"
    )
    (decision,) = fold_batch_norm(model)
    assert (decision.result, decision.reason.split(";")[0]) == (None, "it is in training mode")


def test_a_weight_that_is_an_output_too_keeps_its_values() -> None:
    model = graph("c = Conv (x, W1, B) y = BatchNormalization (c, G, T, M, S)")
    weight = model.graph.initializers["W1"]
    model.graph.outputs.append(weight)
    before = run_double(model, FEED)
    fold_batch_norm(model)
    for found, expected in zip(run_double(model, FEED), before, strict=True):
        assert relative_error(found, expected) <= TOLERANCES["float64"]


def test_an_output_keeps_its_name_type_and_shape() -> None:
    model = graph("c = Conv (x, W1, B) y = BatchNormalization (c, G, T, M, S)")
    before = ir.to_proto(model).graph.output[0]
    fold_batch_norm(model)
    assert ir.to_proto(model).graph.output[0] == before


def test_unknown_channels_before_it_in_a_concat_are_a_reason() -> None:
    model = graph(
        "s = Shape (x) u = Expand (r, s) b = BatchNormalization (x, G, T, M, S) "
        "k = Concat <axis = 1> (u, b) y = Conv (k, WC, B)"
    )
    for node in model.graph:
        if node.op_type == "Expand":
            node.outputs[0].shape = None
    (decision,) = fold_batch_norm(model)
    assert decision.result or "channels of u are unknown" in decision.reason


def in_a_branch() -> onnx.ModelProto:
    """A normalization and a modulator in the branch of an If."""
    model: onnx.ModelProto = ir.to_proto(
        graph(
            "b = BatchNormalization (x, G, T, M, S) "
            "y = adadm.AdaDMModulate <weight = 0.9, bias = 0.1> (b, r)"
        )
    )
    branch = helper.make_graph(list(model.graph.node), "branch", [], list(model.graph.output))
    del model.graph.node[:]
    model.graph.node.append(
        helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    )
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    return model


def test_bodies_are_left_alone_with_a_reason_and_keep_their_functions() -> None:
    model: ir.Model = ir.from_proto(in_a_branch())
    decisions = fold_batch_norm(model)
    assert [(d.result, d.reason.split(",")[0]) for d in decisions] == [
        (None, "it is in the body of a function")
    ] * 2
    assert [identifier[1] for identifier in model.functions] == ["AdaDMModulate"]


def test_initializers_that_are_inputs_are_not_constant() -> None:
    text = """<ir_version: 9, opset_import: ["" : 19]>
    g (double[N,3,H,W] x, double[3,3,1,1] w) => (double[N,3,H,W] y)
    <double[3,3,1,1] w = {1,0,0,0,1,0,0,0,1}, double[3] p = {1,2,3}, double[3] z = {1,1,1}>
    { c = Conv (x, w) y = BatchNormalization (c, p, p, p, z) }"""
    (decision,) = fold_batch_norm(ir.from_proto(parser.parse_model(text)))
    assert "weights of" in decision.reason
    assert "are not constant" in decision.reason


@pytest.mark.parametrize("signature", ["AdaDMModulate", "AdaDMModulateWithFactor"])
def test_exposed_factors_are_the_bodys_own_and_exposed_once(signature: str) -> None:
    model = graph("y = adadm.AdaDMModulate <weight = 0.9, bias = 0.1> (x, r)")
    if signature.endswith("WithFactor"):
        ExposeFactors()(model)
        assert not ExposeFactors()(model).modified
    else:
        assert ExposeFactors()(model).modified
    y, factor = run_double(model, FEED)
    std = FEED["x"].std(axis=(1, 2, 3), ddof=1, keepdims=True)
    expected = np.exp(np.float32(0.9) * np.log(std) + np.float32(0.1))
    np.testing.assert_allclose(factor, expected, rtol=1e-7)
    np.testing.assert_allclose(y, FEED["x"] + FEED["r"] * factor)
    assert [output.name for output in model.graph.outputs] == ["y", "factor_0"]
