from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from _support.graphs import from_text, graph
from adadm.export import collapse_tail, fold_batch_norm
from adadm.export.graph.checker import check_graph, read_model
from adadm.runtime.errors import EngineError, ExportError

NORM = "c = Conv (x, W1, B) y = BatchNormalization (c, G, T, M, S)"


def _fewer_inputs(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "BatchNormalization")
    node.resize_inputs(2)


def _another_attribute(model: ir.Model) -> None:
    next(iter(model.graph)).attributes["strides"] = ir.AttrFloat32("strides", 1.5)


def _no_opset(model: ir.Model) -> None:
    del model.opset_imports[""]


@pytest.mark.parametrize("damage", [_fewer_inputs, _another_attribute, _no_opset])
@pytest.mark.parametrize("change", [fold_batch_norm, collapse_tail])
def test_a_damaged_graph_is_refused_in_one_line(
    damage: Callable[[ir.Model], None], change: Callable[[ir.Model], object], tmp_path: Path
) -> None:
    model = graph(NORM)
    damage(model)
    with pytest.raises(ExportError, match=r"^the ONNX checker refuses the graph: [^\n]+$"):
        change(model)
    path = tmp_path / "damaged.onnx"
    onnx.save(ir.to_proto(model), path)
    with pytest.raises(EngineError, match=r"damaged\.onnx .*; copy or export it again$"):
        read_model(path)


def test_weights_in_another_file_are_read_when_they_are_there(tmp_path: Path) -> None:
    onnx.save(
        ir.to_proto(graph(NORM)), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0
    )
    files = [path for path in tmp_path.iterdir() if path.suffix != ".onnx"]
    assert files
    model = ir.load(tmp_path / "m.onnx")
    check_graph(model)
    (decision,) = fold_batch_norm(model)
    assert decision.result
    missing = ir.load(tmp_path / "m.onnx")
    for path in files:
        path.unlink()
    with pytest.raises(OSError, match="No such file"):
        fold_batch_norm(missing)


def test_weights_that_are_text_are_no_constants() -> None:
    model = graph(NORM)
    for name in ("W1", "G"):
        changed = model.graph.initializers[name]
        texts = np.full(changed.const_value.shape.numpy(), b"1")  # type: ignore[union-attr]
        changed.const_value = ir.StringTensor(texts, name=name)
        changed.dtype = ir.DataType.STRING
    (decision,) = fold_batch_norm(model)
    assert decision.result is None and "is not constant" in decision.reason


def test_a_branch_with_weights_of_its_own_is_checked() -> None:
    model = from_text(
        """z = If (b) <then_branch = g () => (double[1] z)
             <double[1] w = {2.0}> { z = Identity (w) },
           else_branch = h () => (double[1] z) <double[1] v = {3.0}> { z = Identity (v) }>""",
        "bool b",
        "double[1] z",
    )
    check_graph(model)


def test_weights_that_do_not_fit_are_refused() -> None:
    model = graph(NORM)
    model.graph.initializers["W1"].const_value = ir.tensor(np.ones(3), name="W1")
    with pytest.raises(ExportError, match="its inputs have shapes that"):
        fold_batch_norm(model)
    proto = ir.to_proto(graph(NORM))
    for tensor in proto.graph.initializer:
        tensor.raw_data = tensor.raw_data[:-3] if tensor.name == "W1" else tensor.raw_data
    with pytest.raises(ExportError, match="the weights W1 are damaged"):
        fold_batch_norm(ir.from_proto(proto))
