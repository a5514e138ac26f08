"""Return the moments of every trunk instead of the image."""

from __future__ import annotations

import onnx_ir as ir

from adadm.export.graph.rewriting import graph_of, named_node, shape_of
from adadm.export.operators import DOMAIN, update_functions
from adadm.export.operators.external_statistics import MOMENTS, MOMENTS_SHIFTED
from adadm.export.operators.modulator import SIGNATURES, modulators

MOMENTS_OUTPUT = "moments"
_FLOAT = ir.DataType.FLOAT
INSIDE = ("rows_inside", "columns_inside")


class ReturnMoments(ir.passes.InPlacePass):
    """Returns the moments that give each trunk's std, over the pixels inside, instead of the image.

    The graph gets two inputs, `rows_inside` (N, 1, H, 1) and `columns_inside` (N, 1, 1, W), 1 for
    the pixels that count and 0 for the halo around them, and one output instead of all others:
    `moments` (N, B, 3): count, mean and sum of squared deviations for each of the B modulators.
    Nodes that only the image needs are dead then, such as the tail and the last residual branch.

    Exact when: always.

    Left alone when: the graph has no modulator.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        nodes = list(modulators(graph))
        if not nodes:
            return ir.passes.PassResult(model, modified=False)
        batch, _, height, width = shape_of(graph.inputs[0])
        shapes = ([batch, 1, height, 1], [batch, 1, 1, width])
        rows, columns = (
            ir.val(name, _FLOAT, ir.Shape(shape))
            for name, shape in zip(INSIDE, shapes, strict=True)
        )
        inside = named_node("Mul", [rows, columns], name="inside")
        graph.insert_before(graph[0], inside)
        parts = [_moments_of(node, inside.outputs[0]) for node in nodes]
        shape = [batch, len(nodes), 3]
        concat = named_node(
            "Concat", parts, {"axis": 1}, name=MOMENTS_OUTPUT, dtype=_FLOAT, shape=shape
        )
        graph.append(concat)
        graph.inputs.extend([rows, columns])
        graph.outputs.clear()
        graph.outputs.append(concat.outputs[0])
        update_functions(model)
        return ir.passes.PassResult(model, modified=True)


def _moments_of(modulator: ir.Node, inside: ir.Value) -> ir.Value:
    shifted = SIGNATURES[modulator.op_type].shifted
    trunk, center = modulator.inputs[0], modulator.inputs[2] if shifted else None
    inputs = [trunk, center, inside] if shifted else [trunk, inside]
    node = named_node(
        MOMENTS_SHIFTED if shifted else MOMENTS,
        inputs,
        name=f"{modulator.name}.moments",
        dtype=_FLOAT,
        shape=[None, 1, 3],
        domain=DOMAIN,
    )
    graph_of(modulator).insert_before(modulator, node)
    return node.outputs[0]
