"""Small graphs from text: one operator, or what one pass changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx import numpy_helper, parser

from _support.double_precision import relative_error, run_double
from _support.parity import TOLERANCES
from adadm.export.operators import update_functions
from adadm.export.passes.folding import Decision, FoldingPass

CHANNELS = 3


def from_text(
    body: str,
    inputs: str,
    outputs: str,
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
    opset: int = 19,
) -> ir.Model:
    """A model from statements, with the constants that they read; a node has its result's name."""
    proto = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : {opset}, "adadm" : 1]>
        tested ({inputs}) => ({outputs}) {{ {body} }}"""
    )
    used = {name for node in proto.graph.node for name in node.input}
    for node in proto.graph.node:
        node.name = node.output[0]
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values), name)
        for name, values in (constants or {}).items()
        if name in used
    )
    model: ir.Model = ir.from_proto(proto)
    update_functions(model)
    return model


def operator(
    name: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    opset: int = 19,
    **attributes: float,
) -> onnx.ModelProto:
    """A checked model of one of our operators and nothing else; types as ONNX's text has them."""
    reads, returns = (
        ", ".join(f"{kind} {value}" for value, kind in values.items())
        for values in (inputs, outputs)
    )
    settings = ", ".join(f"{key} = {value}" for key, value in attributes.items())
    call = f"{name} <{settings}>" if settings else name
    body = f"{', '.join(outputs)} = adadm.{call} ({', '.join(inputs)})"
    proto: onnx.ModelProto = ir.to_proto(from_text(body, reads, returns, opset=opset))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def graph(body: str, outputs: str = "y") -> ir.Model:
    """A float64 model from statements; x and r are inputs, and these are constants of 3 channels:

    W3, V3, W1, WC (of 6 channels), WN (of 9), WS (to 12 channels), WD (depthwise), WI (diagonal),
    WO (to 1 channel): weights; B: bias; E: (1, 3, 1, 1); and of
    BatchNormalization G (gammas of both signs), P (positive), Z (one is 0), tiny (one is),
    T (beta), M (mean), S (variance).
    """
    rng = np.random.default_rng(0)
    constants = {
        "W3": rng.normal(0, 0.5, (CHANNELS, CHANNELS, 3, 3)),
        "V3": rng.normal(0, 0.5, (CHANNELS, CHANNELS, 3, 3)),
        "W1": rng.normal(0, 0.5, (CHANNELS, CHANNELS, 1, 1)),
        "WC": rng.normal(0, 0.5, (CHANNELS, 2 * CHANNELS, 1, 1)),
        "WN": rng.normal(0, 0.5, (CHANNELS, 3 * CHANNELS, 3, 3)),
        "WD": rng.normal(0, 0.5, (CHANNELS, 1, 3, 3)),
        "WS": rng.normal(0, 0.5, (4 * CHANNELS, CHANNELS, 3, 3)),
        "WI": np.diag([0.7, -1.2, 0.4]).reshape(CHANNELS, CHANNELS, 1, 1),
        "WO": rng.normal(0, 0.5, (1, CHANNELS, 1, 1)),
        "E": rng.normal(0, 0.5, (1, CHANNELS, 1, 1)),
        "B": rng.normal(0, 0.5, CHANNELS),
        "G": np.array([0.7, -1.2, 0.4]),
        "P": np.array([0.7, 1.2, 0.4]),
        "Z": np.array([0.7, 0.0, -0.4]),
        "tiny": np.array([0.7, 1e-7, -0.4]),
        "T": np.array([0.5, -0.3, 0.8]),
        "M": np.array([0.2, -0.6, 0.1]),
        "S": np.array([0.5, 1.5, 0.9]),
        "scalar": np.array(0.1),
        "rowwise": rng.normal(0, 1, (1, 1, 7, 1)),
    }
    declared = ", ".join(f"double[N,{CHANNELS},H,W] {name}" for name in outputs.split())
    inputs = f"double[N,{CHANNELS},H,W] x, double[N,{CHANNELS},H,W] r"
    model = from_text(body, inputs, declared, constants)
    common.ShapeInferencePass()(model)
    return model


def apply(folding: FoldingPass, model: ir.Model) -> tuple[Counter[str], list[Decision]]:
    """Apply a pass; assert that the numbers stay, and that twice equals once."""
    rng = np.random.default_rng(1)
    feed = {name: rng.normal(1, 3, (2, CHANNELS, 7, 6)) for name in ("x", "r")}
    before = run_double(model, feed)
    folding(model)
    decisions = list(folding.decisions.values())
    update_functions(model)
    for after, expected in zip(run_double(model, feed), before, strict=True):
        assert relative_error(after, expected) <= TOLERANCES["float64"]
    counts = Counter(node.op_type for node in model.graph)
    assert not folding(model).modified
    return counts, decisions
