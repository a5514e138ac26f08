from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from _support.exports import exported, trace_like, traced
from _support.networks import random_network
from adadm.export import Options, tracing
from adadm.export.graph.checker import check_file
from adadm.export.networks import EDSR, NLSN
from adadm.export.options import check_options
from adadm.export.tracing import trace
from adadm.runtime.errors import ExportError


def test_nodes_carry_the_names_of_modules_and_nothing_of_the_machine() -> None:
    _, model = traced("edsr", 2)
    names = {node.op_type: node.name for node in reversed(list(model.graph))}
    assert names["BatchNormalization"] == "body.0.norm1"
    assert names["AdaDMModulate"] == "body.0.phi"
    assert names["Relu"] == "body.0.relu"
    assert len({node.name for node in model.graph}) == len(list(model.graph))
    assert not any(node.metadata_props for node in model.graph)


def test_sizes_are_free() -> None:
    _, model = traced("edsr", 3)
    assert [str(d) for d in model.graph.inputs[0].shape or ()] == ["N", "3", "H", "W"]
    assert [str(d) for d in model.graph.outputs[0].shape or ()] == ["N", "3", "3*H", "3*W"]


def test_a_file_with_another_opset_than_asked_is_refused() -> None:
    _, model, _ = exported("edsr", 2, Options(opset=17))
    check_file(model, 17)
    with pytest.raises(ExportError, match=r"expected opset 19, got \[17\]"):
        check_file(model, 19)
    model.functions[0].opset_import[0].version = 19
    with pytest.raises(ExportError):
        check_file(model, 17)


def test_a_file_that_the_checker_refuses_is_refused() -> None:
    _, model, _ = exported("edsr", 2, Options())
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ExportError, match="checker refuses the exported model"):
        check_file(model, 19)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ExportError, match="expected opset 17, 18, 19, 20, got 16"):
        check_options(Options(opset=16), EDSR(2, 1, 4))
    with pytest.raises(ExportError, match="at least 144 px for nlsn, such as 12x12, got 7x20"):
        check_options(Options(static=(1, 7, 20)), NLSN(2, 1, 4))
    check_options(Options(static=(1, 8, 18)), NLSN(2, 1, 4))


def test_weights_are_in_the_constants_of_a_graph_alone() -> None:
    """So that tests may trace a network once, and put in the weights of others."""
    trace_like(random_network("edsr", 2, seed=1))
    network = random_network("edsr", 2, seed=2)
    expected, found = (ir.to_proto(make(network)) for make in (trace, trace_like))
    assert found.SerializeToString() == expected.SerializeToString()


def test_a_kept_export_is_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what PyTorch returns nothing is lost in a file."""
    network = random_network("edsr", 2)
    kept = [ir.to_proto(trace(network)).SerializeToString() for _ in range(2)]
    monkeypatch.setattr(tracing, "export", torch.onnx.export)
    assert kept == [ir.to_proto(trace(network)).SerializeToString()] * 2
