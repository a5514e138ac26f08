"""Base of the folding passes, which record a decision for each node."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from adadm.export.graph.rewriting import NotFoldable, label
from adadm.runtime.errors import ExportError
from adadm.runtime.json_format import key

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """The outcome of a pass for one node.

    Attributes:
        node: name of the module or node.
        result: form of the result; None if the node was left alone.
        reason: reason why it was left alone; empty otherwise.
    """

    node: str
    result: str | None = key("form")
    reason: str = ""


class FoldingPass(ir.passes.InPlacePass):
    """Folds one node at a time; a node that cannot be folded is left alone with a reason.

    Attributes:
        result: name of the result in reports.
        decisions: decision for each node that the last call examined, in graph order.
    """

    result: ClassVar[str]

    def __init__(self) -> None:
        self.decisions: dict[ir.Node, Decision] = {}

    @abstractmethod
    def matches(self, node: ir.Node) -> bool:
        """True if a node is in the position that this pass handles."""

    @abstractmethod
    def fold(self, node: ir.Node) -> None:
        """Fold a matching node.

        Raises:
            NotFoldable: the node cannot be folded exactly; nothing has been changed.
        """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.decisions = {}
        for node in list(model.graph):
            name = label(node)
            try:
                if node.graph is None or not self.matches(node):
                    continue
                self.fold(node)
            except (IndexError, ValueError) as error:  # the checker does not compare shapes
                raise ExportError(
                    f"{name}: its inputs have shapes that {node.op_type} does not take ({error})"
                ) from error
            except NotFoldable as reason:
                _logger.debug("%s left %s alone: %s", type(self).__name__, name, reason)
                self.decisions[node] = Decision(name, None, str(reason))
            else:
                self.decisions[node] = Decision(name, self.result)
        folded = any(decision.result for decision in self.decisions.values())
        return ir.passes.PassResult(model, modified=folded)
