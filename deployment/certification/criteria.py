"""Limits that a model must keep to be certified, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adadm.calibration.lowering import BUDGETS_DB
from adadm.calibration.quality.acceptance import unknown_name
from adadm.calibration.quality.gates import GATES, Gate, GateResult
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.deployment.certification.observations import PhotographResult
from adadm.export.proof.drawn_pictures import plain_pictures, plain_size
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


BEYOND_LIMIT = Gate(
    "photograph",
    "x limit",
    1.0,
    "export with a larger --limit, or accept the photograph by name (--accept)",
)
"""Std of the first trunk beyond the limit of its modulator, as a multiple of it (`LimitEffect`).
Each photograph on which a limit is reached has this check under its own name. Blocks after the
first amplify the excess, up to infinity."""


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
        raise CalibrationError(f"{path}: {unknown_name(name, names)}")
    return {name: float(limit) for name, limit in limits.items()}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure against its limit.

    Attributes:
        figure: infinite if nothing differs.
        at_least: True if the limit is a lower one.
        where: name of the worst case.
        left_out: inputs on which the reference itself is lost; each has a check of its own.
        passed: the figure is within the limit.
        accepted: it is not, and the user accepts that.
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
    accepted: bool = False

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
    limit = thresholds.limits[name]
    return _judged(criterion, figure, where, limit, at_least=criterion.at_least)


def check_gate(result: GateResult, thresholds: Thresholds) -> Check:
    """Compare the figure of a gate with its limit in `thresholds`, of an input with its own."""
    gate = result.gate
    limit = thresholds.limits.get(KEYS.get(gate.name, ""), gate.threshold)
    return _judged(gate, result.figure, result.where, limit, left_out=result.left_out)


def check_limits(photographs: Iterable[PhotographResult]) -> list[Check]:
    """A failed check for each photograph on which a limit makes a difference."""
    checks = []
    for photograph in photographs:
        if photograph.limits is None or not photograph.limits.beyond:
            continue
        beyond, levels = photograph.limits.beyond, photograph.limits.largest_error
        block = next(iter(beyond))
        others = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        gate = BEYOND_LIMIT._replace(
            name=photograph.name,
            remedy=f"without limits, up to {levels:.3g} levels differ; {BEYOND_LIMIT.remedy}",
        )
        checks.append(_judged(gate, beyond[block], block + others, gate.threshold))
    return checks


def _judged(
    what: Criterion | Gate,
    figure: float,
    where: str,
    limit: float,
    *,
    at_least: bool = False,
    left_out: tuple[str, ...] = (),
) -> Check:
    unjudged = Check(
        name=what.name,
        figure=figure,
        unit=what.unit,
        limit=limit,
        at_least=at_least,
        where=where,
        remedy=what.remedy,
        left_out=left_out,
        passed=False,
    )
    return replace(unjudged, passed=unjudged.is_within)


def accept_checks(checks: Iterable[Check], names: Collection[str]) -> tuple[Check, ...]:
    """Mark the failed checks that are accepted."""
    return tuple(replace(each, accepted=not each.passed and each.name in names) for each in checks)


def acceptable_checks(images: CalibrationImages) -> tuple[str, ...]:
    """Names that `adadm validate` accepts: checks, drawn inputs, photographs."""
    return *KEYS, *plain_pictures(*plain_size(1)), *images.names


def failures(checks: Sequence[Check]) -> tuple[str, ...]:
    """Sentences, one for each check that fails and is not accepted."""
    return tuple(str(each) for each in checks if not each.passed and not each.accepted)
