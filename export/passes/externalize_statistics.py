"""Make the statistic of every modulator an input of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from adadm.export.graph.rewriting import (
    graph_of,
    input_of,
    named_node,
    new_initializer,
    replace,
    shape_of,
)
from adadm.export.operators import DOMAIN, update_functions
from adadm.export.operators.external_statistics import (
    MOMENTS,
    MOMENTS_SHIFTED,
    STANDARD_DEVIATION,
    external_name,
)
from adadm.export.operators.modulator import SIGNATURES, modulators

STD = "std"


class ExternalizeStatistics(ir.passes.InPlacePass):
    """Makes the std of each modulator an input, so that tiles of one image can share it.

    The graph gets an input `std` (N, B, 1, 1), float32, one value for each of the B modulators in
    their order. If the graph returns the moments of a trunk (`ReturnMoments`), a value of 0 or less
    stands for the std of those moments.

    Exact when: the given std is that of the trunk.

    Left alone when: the graph has no modulator.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        nodes = list(modulators(graph))
        if not nodes:
            return ir.passes.PassResult(model, modified=False)
        batch = shape_of(graph.inputs[0])[0]
        std = ir.val(STD, ir.DataType.FLOAT, ir.Shape([batch, len(nodes), 1, 1]))
        graph.inputs.append(std)
        for index, node in enumerate(nodes):
            _externalize(node, _one_of(std, index, node))
        update_functions(model)
        return ir.passes.PassResult(model, modified=True)


def _one_of(std: ir.Value, index: int, modulator: ir.Node) -> ir.Value:
    """Std of one modulator (N, 1, 1, 1): a slice of the input, or from its moments."""
    graph = graph_of(modulator)
    result: dict[str, Any] = {"dtype": ir.DataType.FLOAT, "shape": [shape_of(std)[0], 1, 1, 1]}
    bounds = [
        new_initializer(graph, f"{STD}.{kind}_{number}", np.array([number]), ir.DataType.INT64)
        for kind, number in (("start", index), ("end", index + 1), ("axis", 1))
    ]
    name = f"{modulator.name}.known_std"
    nodes = [named_node("Slice", [std, *bounds], name=name, **result)]
    moments = _moments_of(modulator)
    if moments is not None:
        inputs, name = [moments, nodes[0].outputs[0]], f"{modulator.name}.std"
        nodes.append(named_node(STANDARD_DEVIATION, inputs, name=name, domain=DOMAIN, **result))
    graph.insert_before(modulator, nodes)
    return nodes[-1].outputs[0]


def _moments_of(modulator: ir.Node) -> ir.Value | None:
    for reader, _ in input_of(modulator, 0).uses():
        if reader.domain == DOMAIN and reader.op_type in (MOMENTS, MOMENTS_SHIFTED):
            return reader.outputs[0]
    return None


def _externalize(modulator: ir.Node, std: ir.Value) -> None:
    trunk, residual, *shift = modulator.inputs
    signature = SIGNATURES[modulator.op_type]
    inputs = [trunk, residual, shift[1], std] if signature.shifted else [trunk, residual, std]
    node = ir.node(
        external_name(signature),
        inputs,
        modulator.attributes,
        domain=DOMAIN,
        name=modulator.name,
    )
    result, old = node.outputs[0], modulator.outputs[0]
    result.name, result.type, result.shape = old.name, old.type, old.shape
    graph_of(modulator).insert_before(modulator, node)
    replace(old, result)
