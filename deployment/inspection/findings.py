"""Rules for what will cost quality or memory in deployment, with the remedy in this toolkit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from adadm.calibration.ranges.float16_ranges import LARGEST_SAFE
from adadm.deployment.inspection.contrast import LEAST_MARGIN_DB, Contrast, Endurance
from adadm.deployment.inspection.headroom import Headroom
from adadm.deployment.inspection.inspected_file import InspectedFile
from adadm.deployment.inspection.responses import BlockResponse
from adadm.deployment.inspection.structure import NEAR_ZERO, OUTSIDE, Block
from adadm.export.passes.shift_trunk import LARGEST_CENTER_TO_STD, ShiftTrunk
from adadm.export.state_dict import some_names

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Rule(NamedTuple):
    """A figure that causes problems beyond `threshold`.

    Attributes:
        name: name of the problem.
        figure: healthy range of the figure, with a placeholder for the threshold.
        threshold: limit; NaN if any figure is a problem.
        advice: remedy, with the option of this toolkit for it.
    """

    name: str
    severity: Literal["warning", "note"]
    figure: str
    threshold: float
    advice: str

    @property
    def expected(self) -> str:
        """Healthy range of the figure."""
        return self.figure.format(self.threshold)


GUESSED = Rule(
    "guessed hyper-parameter",
    "warning",
    "a value from the file or from a flag",
    math.nan,
    "no tensor shows it, and a wrong value gives another network without an error: give it by its "
    "flag (such as --res-scale 0.1), here and to adadm export and adadm quantize",
)

FALLING = Rule(
    "factor that does not follow the deviation",
    "warning",
    "w above {:g}",
    0.0,
    "continue the training: with w = 0 the factor is constant, below 0 it falls as the deviation "
    "rises. Check it with adadm export --factors, and on flat images: for a constant trunk PyTorch "
    "gives NaN or infinity, and the exported operator the factor 0",
)
"""The paper's modulator restores the deviation that a normalization removed, which is w = 1."""

LARGE_FACTOR = Rule(
    "factor near the end of float16",
    "warning",
    "factor at most {:g}",
    LARGEST_SAFE,
    "adadm quantize keeps its product in float32; if that costs too much, deploy the float32 model "
    "of adadm export, which holds factors up to exp(80)",
)
"""A quarter of 65504: the calibration's margin, since other photographs have larger deviations."""

NEVER_UPDATED = Rule(
    "normalization whose statistics were never updated",
    "warning",
    "running means and variances other than the initial 0 and 1, by more than {:g}",
    0.0,
    "the network does not compute what it computed in training: run it in training mode on "
    "training data, so that the statistics are updated, and save it again",
)

INITIAL = Rule(
    "modulator at its initial value",
    "note",
    "w and b other than the initial 1 and 0, by more than {:g}",
    0.0,
    "check that the optimizer of the training had phi among its parameters, and that the file was "
    "saved after the training",
)

LITTLE_HEADROOM = Rule(
    "results fall apart a little above the contrast of photographs",
    "warning",
    "photographs with at least {:g} times their contrast still enlarged",
    2.0,
    "limit the factors, with --limit auto or a lower --limit, or train on with drawn pictures "
    "(scripts/train.py --drawn 0.25)",
)
"""Photographs have half the deviation of black on white, the highest contrast of an image."""

DIVERGING = Rule(
    "drawn picture that is lost",
    "warning",
    "result, reduced again, at least {:+g} dB nearer to its input than bicubic's",
    LEAST_MARGIN_DB,
    LITTLE_HEADROOM.advice,
)

SHIFTED_FAR = Rule(
    "shift far above the deviation",
    "note",
    "|t / a| at most {:g} times the std of the trunk",
    8.0,
    "the folded trunk carries the shift, which costs float16 digits: adadm quantize --precision "
    "fp16 measures the loss and refuses above --budget-db; adadm export computes in float32",
)
"""8 takes up to 3 of the 11 significant bits of float16 and leaves 8, as many as an image has.
Measured on EDSR x2 with shifts in a quarter of the channels: 80 dB to float32 without, 76 at 4
times the std, 71 at 8, 67 at 15."""

KEPT = Rule(
    "normalization that cannot be folded",
    "note",
    "|t / a| at most {:g} times the std of the trunk",
    LARGEST_CENTER_TO_STD,
    "adadm export stays exact, at the cost of one multiply-add a value in the block; to remove it, "
    "continue the training with gamma and beta of the channel with the small gamma at 0",
)
"""The limit of the fold itself: 4 of the 24 bits of float32."""

NEAR_ZERO_GAMMAS = Rule(
    "channels with a gamma near zero",
    "note",
    "|gamma| above {:g} of the median",
    NEAR_ZERO,
    "they cost as much as others but have nearly no effect: train a narrower network "
    "(scripts/train.py --set features=N), or accept the cost",
)

SILENT = Rule(
    "channels of the trunk that nothing moves",
    "note",
    "std above {:g} of the median channel's, on some photograph",
    0.01,
    NEAR_ZERO_GAMMAS.advice,
)
"""40 dB below a typical channel, on the photograph where it is largest."""

MOVING = Rule(
    "factor that moves much with content",
    "note",
    "largest at most {:g} times the least, over the photographs",
    4.0,
    "calibrate on more and more varied photographs (adadm quantize --images PATH... --photographs "
    "64), and let tiles share their statistics (--stats external)",
)
"""One INT8 scale must hold the result of the largest factor: a ratio of 4 costs 2 of its 7 bits
where the factor is least. The bundled networks reach 2.5."""

OVERFLOW = Rule(
    "float16 overflow is near",
    "warning",
    "65504 at least {:g} times the largest magnitude",
    4.0,
    "adadm quantize multiplies a trunk that is too large by a power of two, exactly, and keeps "
    "any other tensor in float32",
)
"""The calibration's margin: other photographs have larger values."""

UNDERFLOW = Rule(
    "typical values below the normal numbers of float16",
    "note",
    "root mean square at least {:g} times 2^-14",
    1.0,
    "adadm quantize --precision fp16 measures the loss and refuses above --budget-db; "
    "adadm export computes in float32",
)
"""Below 2^-14 each halving costs one of the 11 bits."""

FEW_BITS = Rule(
    "few INT8 levels for typical values",
    "warning",
    "std of a convolution's input at least 2^{:g} steps of its scale",
    1.0,
    "adadm quantize --precision int8 keeps it in higher precision if --budget-db requires it; "
    "--sensitivity prints its loss",
)
"""The rounding has a std of 0.29 steps, 17 dB below an input of 2. The bundled networks have 2.2
bits and more."""

RULES = (
    *(GUESSED, NEVER_UPDATED, LITTLE_HEADROOM, DIVERGING, FALLING, LARGE_FACTOR, INITIAL),
    *(SHIFTED_FAR, KEPT, NEAR_ZERO_GAMMAS),
    *(SILENT, MOVING, OVERFLOW, UNDERFLOW, FEW_BITS),
)


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
