"""The forms of the export and its graph, on a random EDSR in the published layout."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Literal

import numpy as np
import pytest
from onnx import TensorProto

from _support.exports import exported
from _support.parity import assert_parity, photograph_like
from _support.slow import slow_unless
from adadm.export import Options
from adadm.export.proof.pytorch import run_network, run_with_factors
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

FORMS = list(itertools.product(("function", "inline"), (17, 18, 19, 20), ("exact", "off")))
USUAL = [("function", opset, "exact") for opset in (17, 18, 19, 20)]
USUAL += [("inline", 17, "off"), ("inline", 20, "exact")]


@pytest.mark.parametrize(
    ("modulator", "opset", "fold"), slow_unless(lambda *form: form in USUAL, FORMS)
)
def test_every_form_agrees_with_pytorch(
    modulator: Literal["function", "inline"], opset: int, fold: Literal["exact", "off"]
) -> None:
    options = Options(modulator=modulator, opset=opset, fold=fold)
    network, model, _ = exported("edsr", 2, options)
    assert {entry.version for entry in model.opset_import if not entry.domain} == {opset}
    assert bool(model.functions) == (modulator == "function")
    lr = photograph_like((2, 19, 14))
    found = OnnxRuntimeSession(model.SerializeToString()).run({"lr": lr})["sr"]
    assert_parity(found, run_network(network, lr), "float32")


@pytest.mark.parametrize("tail", ["original", "collapsed"])
def test_the_graph_is_at_its_floor(tail: Literal["original", "collapsed"]) -> None:
    _, model, _ = exported("edsr", 4, Options(tail=tail))
    blocks = 3
    counts = Counter(node.op_type for node in model.graph.node)
    runs = 1 if tail == "original" else 4  # of the original tail
    strips = {"Slice": 4 + 6 + 1, "Concat": 2} if tail == "collapsed" else {}
    assert counts == {
        "Conv": 1 + 2 * blocks + 1 + (2 + 1) * runs + (tail == "collapsed"),
        "Relu": blocks,
        "AdaDMModulateShifted": blocks,
        "Add": blocks + 1,
        "DepthToSpace": 2 * runs + (tail == "collapsed"),
        **strips,
    }
    names = [node.name for node in model.graph.node]
    last = "tail.1" if tail == "original" else "tail.0.0.collapsed"
    assert {"head.0", "body.0.conv1", "body.0.phi", "body.2.conv2", last} <= set(names)


# docs/operators.md of onnx-tensorrt, release 8.5-GA: what is read, for float32 data.
TENSORRT_8_5 = {
    *("Add", "BatchNormalization", "Cast", "Concat", "Constant", "Conv", "DepthToSpace", "Div"),
    *("Exp", "Greater", "Log", "Max", "Min", "Mul", "ReduceMean", "ReduceProd", "ReduceSum"),
    *("ReduceSumSquare", "Relu", "Shape", "Slice", "Sqrt", "Sub", "Where"),
}


@pytest.mark.parametrize("fold", ["exact", "off"])
def test_inlined_keeps_to_what_tensorrt_8_5_reads(fold: Literal["exact", "off"]) -> None:
    _, model, _ = exported(
        "edsr", 2, Options(modulator="inline", opset=17, fold=fold, factors=True)
    )
    assert {node.op_type for node in model.graph.node} <= TENSORRT_8_5
    for node in model.graph.node:
        if node.op_type == "Shape":  # its importer ignores start and end
            assert not node.attribute
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    reduced = [n.input[0] for n in model.graph.node if n.op_type.startswith("Reduce")]
    assert {types[name] for name in reduced if name in types} == {TensorProto.FLOAT}


def test_static_sizes_are_in_the_file() -> None:
    network, model, _ = exported("edsr", 2, Options(static=(2, 24, 33)))
    session = OnnxRuntimeSession(model.SerializeToString())
    assert session.inputs[0].shape == (2, 3, 24, 33)
    assert session.outputs[0].shape == (2, 3, 48, 66)
    for value in model.graph.value_info:
        shape = value.type.tensor_type.shape
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            assert all(dimension.HasField("dim_value") for dimension in shape.dim), value.name
    lr = photograph_like((2, 24, 33))
    assert_parity(session.run({"lr": lr})["sr"], run_network(network, lr), "float32")


@pytest.mark.parametrize("modulator", ["function", "inline"])
def test_factors_are_those_of_pytorch(modulator: Literal["function", "inline"]) -> None:
    network, model, _ = exported("edsr", 2, Options(factors=True, modulator=modulator))
    lr = photograph_like((2, 21, 18))
    _, expected = run_with_factors(network, lr)
    results = OnnxRuntimeSession(model.SerializeToString()).run({"lr": lr})
    assert list(results) == ["sr", "factor_0", "factor_1", "factor_2"]
    for index, factor in enumerate(expected):
        assert results[f"factor_{index}"].shape == (2, 1, 1, 1)
        np.testing.assert_allclose(results[f"factor_{index}"], factor, rtol=1e-5)
    assert np.ptp(np.stack(expected)) > 0.1


def test_no_path_of_the_machine_is_in_the_file() -> None:
    _, model, _ = exported("edsr", 2, Options())
    assert str(__file__).split("/tests/")[0].encode() not in model.SerializeToString()
