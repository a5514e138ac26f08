"""The blocks of a graph, with the trained parameters of modulators and normalizations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.calibration.ranges.int8_ranges import slow_channels
from adadm.export.graph.channels import (
    affine_of_batch_norm,
    are_initial,
    std_of_batch_norm_input,
)
from adadm.export.graph.rewriting import (
    NotFoldable,
    constant_of,
    constant_values,
    is_batch_norm,
    label,
)
from adadm.export.operators import DOMAIN
from adadm.export.operators.group_norm import GROUP_NORM
from adadm.export.operators.modulator import LARGEST_EXPONENT, find_inlined, modulators
from adadm.export.passes import Decision

Array = npt.NDArray[np.float64]

NEAR_ZERO = 0.01
"""Share of the median magnitude of a normalization's gammas at which a gamma is near zero: its
channel adds 40 dB less than a typical one."""

OUTSIDE = "outside the blocks"
"""Name for head, tail, and everything else outside the blocks."""

_BATCH = "batch normalization"
_OF_THE_INPUT = {
    (DOMAIN, GROUP_NORM): "group normalization",
    ("", "GroupNormalization"): "group normalization",
    ("", "InstanceNormalization"): "instance normalization",
    ("", "LayerNormalization"): "layer normalization",
}
"""Normalizations that cannot be folded, since they take their statistics from the input."""


@dataclass(frozen=True)
class Normalization:
    """A normalization as it was trained.

    Attributes:
        kind: `batch normalization`, or another.
        gamma: gammas (C,); 1 if it has none.
        scale, shift: batch normalization as a map `scale * x + shift`, both (C,); None for kinds
            that take their statistics from the input.
        trunk_std: std of its input by its running statistics, if that is the trunk; else None.
        decision: result of the export for it.
        is_new: true if its running statistics were never updated.
    """

    name: str
    kind: str
    gamma: Array
    scale: Array | None
    shift: Array | None
    trunk_std: float | None
    decision: Decision | None
    is_new: bool = False

    @property
    def near_zero(self) -> npt.NDArray[np.bool_]:
        """Mask (C,) of the channels whose gamma is near zero."""
        magnitude = np.abs(self.gamma)
        near: npt.NDArray[np.bool_] = magnitude <= NEAR_ZERO * np.median(magnitude)
        return near

    @property
    def negative_share(self) -> float:
        """Share of negative gammas, 0..1."""
        return float((self.gamma < 0).mean())

    @property
    def near_zero_share(self) -> float:
        """Share of gammas near zero, 0..1."""
        return float(self.near_zero.mean())

    @property
    def largest_center(self) -> float | None:
        """Largest `|shift / scale|`, the export's shift of the trunk; None off the trunk.

        Infinite if a channel has a shift and a scale of 0.
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
        name: name of the module that holds the modulator.
        normalizations: those in the branch, except in branches inside it.
    """

    name: str
    weight: float
    bias: float
    normalizations: tuple[Normalization, ...] = ()

    @property
    def trunk_std(self) -> float | None:
        """Std of the trunk by the running statistics; None without any."""
        stds = [n.trunk_std for n in self.normalizations if n.trunk_std is not None]
        return stds[0] if stds else None

    @property
    def usual_factor(self) -> float:
        """Factor at the std of the running statistics, or at a std of 1 without any."""
        exponent = self.weight * math.log(self.trunk_std or 1.0) + self.bias
        return math.exp(min(exponent, LARGEST_EXPONENT))


@dataclass(frozen=True)
class Structure:
    """The blocks of a graph in order, and the normalizations outside of them.

    Attributes:
        slow_channels: as `calibration.ranges.int8_ranges.slow_channels` has them.
    """

    blocks: tuple[Block, ...]
    elsewhere: tuple[Normalization, ...] = ()
    slow_channels: tuple[int, ...] = ()

    @property
    def normalizations(self) -> list[Normalization]:
        """All normalizations, in blocks and elsewhere."""
        return [*(n for block in self.blocks for n in block.normalizations), *self.elsewhere]


def read_structure(model: ir.Model, decisions: Iterable[Decision] = ()) -> Structure:
    """Read the blocks of a traced, exported or lowered model, with nodes or inlined modulators.

    Args:
        decisions: results of the folds for the normalizations that are still in the graph.
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
    return Structure(tuple(blocks), tuple(members.get(None, ())), slow_channels(model.graph))


def block_of(name: str, blocks: Iterable[str]) -> str | None:
    """Innermost block of a node or a value, by its name; None outside the blocks."""
    inside = [block for block in blocks if f"{name}.".startswith(f"{block}.")]
    return max(inside, key=len, default=None)


def _by_scope(found: Sequence[tuple[str, float, float]]) -> dict[str, tuple[float, float]]:
    """Modulators by their module, or by their own name if the module holds several."""
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
    is_new = are_initial(*(constant_values(value) for value in node.inputs[3:5]))
    return Normalization(
        label(node), _BATCH, gamma, affine.scale, affine.shift, std, decision, is_new
    )
