from __future__ import annotations

import onnx_ir as ir
from onnx import TensorProto, parser

from adadm.export.passes import InlineFunctions


def cast_like(second: str) -> ir.Model:
    model: ir.Model = ir.from_proto(
        parser.parse_model(
            f"""<ir_version: 9, opset_import: ["" : 19, "own" : 1]>
            g (float[N] x, float16[N] r) => (float16[N] y) {{ {second} y = own.like (x, l) }}
            <domain: "own", opset_import: ["" : 19]>
            like (x, l) => (result) {{ doubled = Add (x, x) result = CastLike (doubled, l) }}"""
        )
    )
    return model


def test_a_call_becomes_its_body_without_cast_like_and_keeps_the_output() -> None:
    model = cast_like("l = Identity (r)")
    assert InlineFunctions()(model).modified
    *_, doubled, cast = model.graph
    assert not model.functions and doubled.name == "doubled"
    assert (cast.op_type, cast.attributes.get_int("to")) == ("Cast", TensorProto.FLOAT16)
    assert model.graph.outputs[0].name == "y"
    assert not InlineFunctions()(model).modified


def test_a_cast_to_an_unknown_type_is_left_alone() -> None:
    model = cast_like("l = other.Unknown (r)")
    InlineFunctions()(model)
    assert list(model.graph)[-1].op_type == "CastLike"
