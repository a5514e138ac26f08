"""CastLike to what it means, once the data types are known."""

from __future__ import annotations

import onnx_ir as ir

from adadm.export.passes.channels import label

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
            data, like = node.inputs
            if like is None or like.dtype is None:
                continue
            cast = ir.node("Cast", [data], {"to": like.dtype.value}, name=label(node))
            cast.outputs[0].dtype, cast.outputs[0].shape = like.dtype, node.outputs[0].shape
            model.graph.insert_before(node, cast)
            ir.convenience.replace_all_uses_with(
                node.outputs[0], cast.outputs[0], replace_graph_outputs=True
            )
            cast.outputs[0].name = node.outputs[0].name
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
