"""CastLike to what it means, once the data types are known."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["ResolveCastLike"]


class ResolveCastLike(ir.passes.InPlacePass):
    """Replaces CastLike, which TensorRT 8.x does not know, by Cast to the data type of its model.

    Pattern: `CastLike(x, model)` in the main graph, as inlined modulators have it.

    Exact when: always; that is the definition of CastLike.

    Left alone when: the data type of `model` is unknown.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type != "CastLike" or node.domain:
                continue
            like = node.inputs[1]
            if like is None or like.dtype is None:
                continue
            node.op_type = "Cast"
            node.attributes.add(ir.AttrInt64("to", like.dtype.value))
            node.resize_inputs(1)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
