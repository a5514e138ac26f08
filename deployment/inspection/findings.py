"""What in a network will cost quality or memory in deployment, by `rules`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.deployment.inspection.contrast import Contrast, Endurance
from adadm.deployment.inspection.headroom import Headroom
from adadm.deployment.inspection.inspected_file import InspectedFile
from adadm.deployment.inspection.responses import BlockResponse
from adadm.deployment.inspection.rules import (
    DIVERGING,
    FALLING,
    FEW_BITS,
    GUESSED,
    INITIAL,
    KEPT,
    LARGE_FACTOR,
    LITTLE_HEADROOM,
    MOVING,
    NEAR_ZERO_GAMMAS,
    NEVER_UPDATED,
    OVERFLOW,
    RULES,
    SHIFTED_FAR,
    SILENT,
    UNDERFLOW,
    Rule,
)
from adadm.deployment.inspection.structure import OUTSIDE, Block
from adadm.export.passes.shift_trunk import ShiftTrunk
from adadm.export.weights.file_content import some_names

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """One figure beyond the threshold of a rule.

    Attributes:
        place: a block, a normalization, or a hyper-parameter.
        figure: infinite if it has no bound.
        detail: further figures or names, such as channels.
    """

    rule: Rule
    place: str
    figure: float
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        """The finding with the texts of its rule."""
        return {
            "finding": self.rule.name,
            "severity": self.rule.severity,
            "place": self.place,
            "figure": self.figure,
            "threshold": self.rule.threshold,
            "expected": self.rule.expected,
            "detail": self.detail,
            "advice": self.rule.advice,
        }


def find(
    inspected: InspectedFile,
    responses: Sequence[BlockResponse] = (),
    headroom: Mapping[str | None, Headroom] | None = None,
    contrast: Contrast | None = None,
) -> list[Finding]:
    """All findings, in the order of `RULES`.

    Args:
        responses: responses of each block in graph order; empty without photographs.
        headroom: headroom by block name; key None for the rest of the network.
        contrast: contrast that the network bears; None if not measured.
    """
    blocks = inspected.structure.blocks
    seen: Sequence[BlockResponse | None] = responses or [None] * len(blocks)
    findings = [
        Finding(GUESSED, name, parameter.value)
        for name, parameter in inspected.hyperparameters.items()
        if parameter.guessed
    ]
    for block, response in zip(blocks, seen, strict=True):
        findings += _of_modulator(block, response)
        findings += _of_shifts(block, response)
        if response is not None:
            findings += _of_response(block, response)
    for normalization in inspected.structure.normalizations:
        magnitude = np.abs(normalization.gamma)
        findings += _faint(NEAR_ZERO_GAMMAS, normalization.name, magnitude, normalization.near_zero)
        if normalization.is_new:
            findings.append(Finding(NEVER_UPDATED, normalization.name, 0.0))
    if contrast is not None:
        findings += _of_contrast(contrast.deployed)
    for name, room in (headroom or {}).items():
        findings += _of_headroom(name or OUTSIDE, room)
    return sorted(findings, key=lambda finding: RULES.index(finding.rule))


def _of_contrast(endurance: Endurance) -> Iterator[Finding]:
    if endurance.headroom is not None and endurance.headroom < LITTLE_HEADROOM.threshold:
        yield Finding(LITTLE_HEADROOM, f"photograph {endurance.photograph}", endurance.headroom)
    for name, margin in endurance.lost.items():
        yield Finding(DIVERGING, name, margin)


def _of_modulator(block: Block, response: BlockResponse | None) -> Iterator[Finding]:
    if (block.weight, block.bias) == (1, 0):
        yield Finding(INITIAL, block.name, 0.0)
    if block.weight <= FALLING.threshold:
        yield Finding(FALLING, block.name, block.weight)
    if response is not None:
        factor, detail = response.factor.largest, "on a photograph"
    else:
        factor, detail = block.usual_factor, f"at a std of {block.trunk_std or 1.0:.3g}"
    if factor > LARGE_FACTOR.threshold:
        yield Finding(LARGE_FACTOR, block.name, factor, detail)


def _of_shifts(block: Block, response: BlockResponse | None) -> Iterator[Finding]:
    for normalization in block.normalizations:
        center, std = normalization.largest_center, normalization.trunk_std
        decision = normalization.decision
        if center is None or std is None or decision is None:
            continue
        if decision.result is None and center > KEPT.threshold * std:
            yield Finding(KEPT, normalization.name, center / std)
        if response is not None and response.trunk is not None:
            std = response.trunk.mean
        if decision.result == ShiftTrunk.result and center > SHIFTED_FAR.threshold * std:
            yield Finding(SHIFTED_FAR, normalization.name, center / std if std else math.inf)


def _of_response(block: Block, response: BlockResponse) -> Iterator[Finding]:
    if response.factor.ratio > MOVING.threshold:
        least, largest = response.factor.least, response.factor.largest
        yield Finding(MOVING, block.name, response.factor.ratio, f"{least:.3g} to {largest:.3g}")
    if response.channels is not None:
        faint = response.channels <= SILENT.threshold * np.median(response.channels)
        yield from _faint(SILENT, block.name, response.channels, faint)


def _faint(rule: Rule, place: str, magnitudes: Array, faint: Mask) -> Iterator[Finding]:
    if faint.any():
        median = float(np.median(magnitudes))
        channels = some_names(map(str, np.flatnonzero(faint)))
        yield Finding(
            rule,
            place,
            float(magnitudes.min()) / median if median else 0.0,
            f"{faint.sum()} of {faint.size}: channels {channels}",
        )


def _of_headroom(place: str, room: Headroom) -> Iterator[Finding]:
    if room.largest.below_overflow < OVERFLOW.threshold:
        detail = f"{room.largest.name} reaches {room.largest.peak:.3g}"
        yield Finding(OVERFLOW, place, room.largest.below_overflow, detail)
    if room.smallest is not None and room.smallest.above_underflow < UNDERFLOW.threshold:
        yield Finding(UNDERFLOW, place, room.smallest.above_underflow, room.smallest.name)
    if room.bits is not None and room.bits < FEW_BITS.threshold:
        yield Finding(FEW_BITS, place, room.bits, room.convolution)
