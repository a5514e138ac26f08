"""The frame of the folding passes: which nodes, what was done, and why not."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from adadm.export.graph.rewriting import NotFoldable, label
from adadm.runtime.json_format import key

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """What a pass did with one node.

    Attributes:
        node: the name of the module or node.
        result: what became of it; None where it was left alone.
        reason: why it was left alone; empty otherwise.
    """

    node: str
    result: str | None = key("form")
    reason: str = ""


class FoldingPass(ir.passes.InPlacePass):
    """Folds one node at a time; a node that cannot be folded is left alone, with the reason.

    Attributes:
        result: how a report calls the result.
        decisions: one for each node that the last call looked at, in graph order.
    """

    result: ClassVar[str]

    def __init__(self) -> None:
        self.decisions: dict[ir.Node, Decision] = {}

    @abstractmethod
    def matches(self, node: ir.Node) -> bool:
        """Whether a node has the place in the graph that this pass is about."""

    @abstractmethod
    def fold(self, node: ir.Node) -> None:
        """Fold a matching node.

        Raises:
            NotFoldable: it cannot be folded exactly; nothing has been changed.
        """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.decisions = {}
        for node in list(model.graph):
            if node.graph is None or not self.matches(node):
                continue
            name = label(node)
            try:
                self.fold(node)
            except NotFoldable as reason:
                _logger.debug("%s left %s alone: %s", type(self).__name__, name, reason)
                self.decisions[node] = Decision(name, None, str(reason))
            else:
                self.decisions[node] = Decision(name, self.result)
        folded = any(decision.result for decision in self.decisions.values())
        return ir.passes.PassResult(model, modified=folded)
