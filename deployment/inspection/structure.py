"""The blocks of a graph: what their modulators and normalizations were trained to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.export.graph.channels import affine_of_batch_norm, std_of_batch_norm_input
from adadm.export.graph.rewriting import NotFoldable, constant_of, is_batch_norm, label
from adadm.export.operators import DOMAIN
from adadm.export.operators.group_norm import GROUP_NORM
from adadm.export.operators.modulator import LARGEST_EXPONENT, find_inlined, modulators
from adadm.export.passes import Decision

Array = npt.NDArray[np.float64]

NEAR_ZERO = 0.01
"""Of the median magnitude of the gammas of one normalization, a gamma below which is near zero: its
channel adds 40 dB less than a typical one."""

OUTSIDE = "outside the blocks"
"""Head, tail, and what else belongs to no block."""

_BATCH = "batch normalization"
_OF_THE_INPUT = {
    (DOMAIN, GROUP_NORM): "group normalization",
    ("", "GroupNormalization"): "group normalization",
    ("", "InstanceNormalization"): "instance normalization",
    ("", "LayerNormalization"): "layer normalization",
}
"""Normalizations whose statistics are those of the input, so that nothing of them can be folded."""


@dataclass(frozen=True)
class Normalization:
    """A normalization as it was trained.

    Attributes:
        kind: `batch normalization`, or another.
        gamma: (C,); 1 where it has none.
        scale, shift: the map `scale * x + shift` that batch normalization is, (C,); None where its
            statistics are those of the input, as others' are.
        trunk_std: of what it reads, as its running statistics tell, where that is the trunk.
        decision: what the export does with it.
    """

    name: str
    kind: str
    gamma: Array
    scale: Array | None
    shift: Array | None
    trunk_std: float | None
    decision: Decision | None

    @property
    def near_zero(self) -> npt.NDArray[np.bool_]:
        """The channels whose gamma is, (C,)."""
        magnitude = np.abs(self.gamma)
        near: npt.NDArray[np.bool_] = magnitude <= NEAR_ZERO * np.median(magnitude)
        return near

    @property
    def negative_share(self) -> float:
        """Of the gammas."""
        return float((self.gamma < 0).mean())

    @property
    def near_zero_share(self) -> float:
        """Of the gammas."""
        return float(self.near_zero.mean())

    @property
    def largest_center(self) -> float | None:
        """Largest `|shift / scale|`, by which the export moves the trunk; None off the trunk.

        Infinite where a channel has a shift and no scale.
        """
        if self.trunk_std is None or self.scale is None or self.shift is None:
            return None
        with np.errstate(divide="ignore"):
            centers = np.abs(self.shift[self.shift != 0] / self.scale[self.shift != 0])
        return float(centers.max(initial=0.0))


@dataclass(frozen=True)
class Block:
    """A residual branch with its modulator: `x + r * exp(weight * ln(std(x)) + bias)`.

    Attributes:
        name: of the module that holds the modulator.
        normalizations: in the branch, and in no branch inside it.
    """

    name: str
    weight: float
    bias: float
    normalizations: tuple[Normalization, ...] = ()

    @property
    def trunk_std(self) -> float | None:
        """Of the trunk, as the running statistics tell; None where nothing tells."""
        stds = [n.trunk_std for n in self.normalizations if n.trunk_std is not None]
        return stds[0] if stds else None

    @property
    def usual_factor(self) -> float:
        """At the std that the running statistics tell, or at 1 where nothing tells."""
        exponent = self.weight * math.log(self.trunk_std or 1.0) + self.bias
        return math.exp(min(exponent, LARGEST_EXPONENT))


@dataclass(frozen=True)
class Structure:
    """The blocks of a graph in order, and the normalizations that are in none."""

    blocks: tuple[Block, ...]
    elsewhere: tuple[Normalization, ...] = ()

    @property
    def normalizations(self) -> list[Normalization]:
        """All of them."""
        return [*(n for block in self.blocks for n in block.normalizations), *self.elsewhere]


def read_structure(model: ir.Model, decisions: Iterable[Decision] = ()) -> Structure:
    """The blocks of a model, as it was traced, exported or lowered.

    Modulators are nodes, or inlined.

    Args:
        decisions: what the folds did with the normalizations that are in the graph still.
    """
    nodes = list(modulators(model.graph))
    trunks = [node.inputs[0] for node in nodes]
    inlined = [(str(m.result.name), m.weight, m.bias) for m in find_inlined(model.graph)]
    parameters = _by_scope([*map(_parameters, nodes), *inlined])
    by_node = {decision.node: decision for decision in decisions}
    members: dict[str | None, list[Normalization]] = {}
    for node in model.graph:
        if is_batch_norm(node) or (node.domain, node.op_type) in _OF_THE_INPUT:
            scope = block_of(label(node), parameters)
            members.setdefault(scope, []).append(_read(node, trunks, by_node))
    blocks = (Block(s, w, b, tuple(members.get(s, ()))) for s, (w, b) in parameters.items())
    return Structure(tuple(blocks), tuple(members.get(None, ())))


def block_of(name: str, blocks: Iterable[str]) -> str | None:
    """The innermost block that a node or a value belongs to, by its name."""
    inside = [block for block in blocks if f"{name}.".startswith(f"{block}.")]
    return max(inside, key=len, default=None)


def _by_scope(found: Sequence[tuple[str, float, float]]) -> dict[str, tuple[float, float]]:
    """Modulators by the module that holds them, or by their own name where it holds several."""
    scopes = [name.rpartition(".")[0] or name for name, *_ in found]
    return {
        scope if scopes.count(scope) == 1 else name: (weight, bias)
        for scope, (name, weight, bias) in zip(scopes, found, strict=True)
    }


def _parameters(modulator: ir.Node) -> tuple[str, float, float]:
    weight, bias = (modulator.attributes[name].as_float() for name in ("weight", "bias"))
    return label(modulator), weight, bias


def _read(
    node: ir.Node, trunks: Iterable[ir.Value | None], decisions: Mapping[str, Decision]
) -> Normalization:
    decision = decisions.get(label(node))
    gamma = constant_of(node.inputs[1])
    gamma = np.ones(1) if gamma is None else gamma.ravel()
    if not is_batch_norm(node):
        kind = _OF_THE_INPUT[node.domain, node.op_type]
        return Normalization(label(node), kind, gamma, None, None, None, decision)
    try:
        affine = affine_of_batch_norm(node)
    except NotFoldable:
        return Normalization(label(node), _BATCH, gamma, None, None, None, decision)
    std = std_of_batch_norm_input(node) if node.inputs[0] in trunks else None
    return Normalization(label(node), _BATCH, gamma, affine.scale, affine.shift, std, decision)
