"""Replace calls of model-local functions by their bodies."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


class InlineFunctions(ir.passes.InPlacePass):
    """Replaces calls of functions by their bodies, for targets that do not read functions.

    Pattern: a call of one of the model's functions in the main graph; then `CastLike(x, like)`
    from the bodies, which TensorRT 8.x lacks: it becomes a Cast to the data type of `like`. Each
    node of a body is named after its result, with a number if that name is taken, so that the
    names do not depend on the opset.

    Exact when: always; this is the definition of a call and of CastLike.

    Left alone when: the data type of `like` is unknown.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for function in model.functions.values():
            for node in function:
                node.name = node.outputs[0].name
        modified = common.InlinePass()(model).modified
        common.ShapeInferencePass()(model)
        for node in model.graph:
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
