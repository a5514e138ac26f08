"""Operators of the domain `adadm`: each a node, with its body in the same file.

A runtime with a kernel of an operator's name uses the kernel; any other expands the model-local
function that defines the node. Inputs and outputs are fixed and each signature has its own name,
because a call that leaves out an optional input passes the checker and fails in the runtimes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from adadm.export.operators import external_statistics, group_norm, modulator, sparse_attention
from adadm.export.operators.domain import DOMAIN, DOMAIN_VERSION

__all__ = ["DOMAIN", "DOMAIN_VERSION", "FUNCTIONS", "all_nodes", "update_functions"]

FUNCTIONS: Mapping[str, Callable[[int], ir.Function]] = {
    **external_statistics.FUNCTIONS,
    **group_norm.FUNCTIONS,
    **modulator.FUNCTIONS,
    **sparse_attention.FUNCTIONS,
}
"""Makers of the operators' bodies by name, for an opset of the default domain, 17 or later."""


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes of a graph, then those of function bodies, including If and Loop bodies."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def update_functions(model: ir.Model) -> None:
    """Give a model exactly the bodies of the operators that it uses, for its opset."""
    for identifier in [i for i in model.functions if i[0] == DOMAIN and i[1] in FUNCTIONS]:
        del model.functions[identifier]
    used = {node.op_type for node in all_nodes(model) if node.domain == DOMAIN}
    for name in sorted(used & FUNCTIONS.keys()):
        function = FUNCTIONS[name](model.opset_imports[""])
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = DOMAIN_VERSION
