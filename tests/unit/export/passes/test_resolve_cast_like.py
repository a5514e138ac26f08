from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx import TensorProto, parser

from adadm.export.passes import ResolveCastLike


def cast_like(second: str) -> ir.Model:
    model: ir.Model = ir.from_proto(
        parser.parse_model(
            f"""<ir_version: 9, opset_import: ["" : 19]>
            g (float[N] x, float16[N] r) => (float16[N] y) {{ {second} y = CastLike (x, l) }}"""
        )
    )
    common.ShapeInferencePass()(model)
    return model


def test_becomes_a_cast_and_keeps_the_output() -> None:
    model = cast_like("l = Identity (r)")
    assert ResolveCastLike()(model).modified
    node = list(model.graph)[-1]
    assert (node.op_type, node.attributes.get_int("to")) == ("Cast", TensorProto.FLOAT16)
    assert model.graph.outputs[0].name == "y"
    assert not ResolveCastLike()(model).modified


def test_an_unknown_type_is_left_alone() -> None:
    model = cast_like("l = Identity (r)")
    next(iter(model.graph)).outputs[0].type = None
    assert not ResolveCastLike()(model).modified
