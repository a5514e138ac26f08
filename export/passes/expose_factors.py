"""Make the modulation factors graph outputs."""

from __future__ import annotations

import onnx_ir as ir

from adadm.export.operators import update_functions
from adadm.export.operators.modulator import SIGNATURES, modulators


class ExposeFactors(ir.passes.InPlacePass):
    """Adds the factor of every modulator to the outputs: `factor_0`, `factor_1`, ... (N, 1, 1, 1).

    Exact when: always; each modulator becomes the operator with the same body that also returns
    its factor.

    Left alone when: a modulator's factor is an output already.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for index, node in enumerate(modulators(model.graph)):
            signature = SIGNATURES[node.op_type]
            if "factor" in signature.outputs:
                continue
            node.op_type = signature.with_factor.name
            node.resize_outputs(2)
            batch = node.outputs[0].shape[0] if node.outputs[0].shape else None
            factor = node.outputs[1]
            factor.name = f"factor_{index}"
            factor.shape = ir.Shape([batch, 1, 1, 1])
            factor.type = node.outputs[0].type
            model.graph.outputs.append(factor)
            modified = True
        update_functions(model)
        return ir.passes.PassResult(model, modified=modified)
