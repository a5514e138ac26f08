"""Limits that a model must keep to be certified, each with its reason."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adadm.calibration.lowering import BUDGETS_DB
from adadm.calibration.quality.gates import GATES, Gate, GateResult
from adadm.runtime.errors import CalibrationError
from adadm.runtime.json_format import Figure, read


@dataclass(frozen=True)
class Criterion:
    """A figure with a limit for each precision.

    Attributes:
        at_least: True if the limit is a lower one.
    """

    name: str
    unit: str
    limits: Mapping[str, float]
    remedy: str
    at_least: bool = False


def _noise_db(power: float) -> float:
    """PSNR in dB of an error of `power`, in square grey levels of 255."""
    return round(10 * math.log10(255**2 / power), 2)


CRITERIA: dict[str, Criterion] = {
    "lost_db": Criterion(
        "PSNR-Y lost",
        "dB",
        {"float32": 0.001, "fp16": BUDGETS_DB["fp16"], "int8": BUDGETS_DB["int8"]},
        "keep more layers in higher precision (adadm quantize --budget-db)",
    ),
    "parity_db": Criterion(
        "worst parity",
        "dB",
        {"float32": 100.0, "fp16": _noise_db(1 / 12), "int8": _noise_db(1)},
        "see the first layer that differs",
        at_least=True,
    ),
    "factor_percent": Criterion(
        "worst factor",
        "%",
        {"float32": 0.1, "fp16": 1.0, "int8": 5.0},
        "the modulator reads a wrong deviation: see the block and the layers before it",
    ),
    "layers_at_fault": Criterion(
        "layers at fault", "", {"float32": 0, "fp16": 0, "int8": 0}, "see where it goes wrong"
    ),
}
"""Criteria by their names in a file of thresholds.

- `lost_db`: PSNR-Y loss over all photographs; the budget of `adadm quantize`. Float32 may lose
  only what no display shows.
- `parity_db`: PSNR of the worst photograph against the reference, peak white. Float32: an error of
  1e-5 of white. FP16: the noise of rounding to 8 bits. INT8: one grey level, root mean square.
- `factor_percent`: largest relative error over all photographs and blocks. A factor is the gain
  of a residual branch: 1 % of it is some 0.1 % of the trunk.
- `layers_at_fault`: 1 if `layers.compare_layers` finds a layer that is wrong by itself. The image
  may hardly show it: a range that clips half of the values costs a tenth of a dB.
"""


KEYS = {
    **{criterion.name: key for key, criterion in CRITERIA.items()},
    **{gate.name: f"{gate.name} {gate.unit}".lower().replace(" ", "_") for gate in GATES},
}
"""Name of each check in a file of thresholds."""


@dataclass(frozen=True)
class Thresholds:
    """Limits of a certificate by name.

    Attributes:
        limits: all limits.
        given: those that replace defaults.
    """

    limits: Mapping[str, float]
    given: Mapping[str, float]

    @classmethod
    def of(cls, precision: str, given: Mapping[str, float]) -> Thresholds:
        """Defaults of a precision, replaced by the given limits."""
        limits = {name: criterion.limits[precision] for name, criterion in CRITERIA.items()}
        limits |= {KEYS[gate.name]: gate.threshold for gate in GATES}
        return cls({**limits, **given}, given)


def read_thresholds(path: Path) -> dict[str, float]:
    """Read a JSON object of limits by name.

    Raises:
        CalibrationError: the file is not such an object, a name is unknown, or a limit is not a
            number.
    """
    names = list(KEYS.values())
    limits = read(dict[str, float], path, error=CalibrationError)
    for name in (name for name in limits if name not in names):
        near = difflib.get_close_matches(name, names, n=1)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise CalibrationError(f"{path}: unknown limit {name!r}{meant} Known: {', '.join(names)}")
    return {name: float(limit) for name, limit in limits.items()}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure against its limit.

    Attributes:
        figure: infinite if nothing differs.
        at_least: True if the limit is a lower one.
        where: name of the worst case.
        left_out: cases on which the reference itself diverges.
        passed: verdict.
    """

    name: str
    figure: Figure
    unit: str
    limit: float
    at_least: bool
    where: str
    remedy: str
    left_out: tuple[str, ...] = ()
    passed: bool

    @property
    def is_within(self) -> bool:
        """True if the figure is within the limit; NaN never is."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        figure = f"{self.figure:.4g} {self.unit}".rstrip()
        return (
            f"{self.name} is {figure} ({self.where}), required {bound} "
            f"{self.limit:g}: {self.remedy}"
        )


def check(name: str, figure: float, where: str, thresholds: Thresholds) -> Check:
    """Compare a figure with the limit of one of `CRITERIA`."""
    criterion = CRITERIA[name]
    return _judged(criterion, figure, where, thresholds, at_least=criterion.at_least)


def check_gate(result: GateResult, thresholds: Thresholds) -> Check:
    """Compare the figure of a gate with its limit in `thresholds`."""
    gate, left_out = result.gate, result.left_out
    return _judged(gate, result.figure, result.where, thresholds, at_least=False, left_out=left_out)


def _judged(
    what: Criterion | Gate, figure: float, where: str, thresholds: Thresholds, **more: Any
) -> Check:
    common = {"name": what.name, "unit": what.unit, "remedy": what.remedy, **more}
    limit = thresholds.limits[KEYS[what.name]]
    unjudged = Check(figure=figure, where=where, limit=limit, passed=False, **common)
    return replace(unjudged, passed=unjudged.is_within)


def failures(checks: Sequence[Check]) -> tuple[str, ...]:
    """Sentences, one for each failed check."""
    return tuple(str(failed) for failed in checks if not failed.passed)
