"""The drift ledger: the cost of each stage on the way to a lowered model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adadm.calibration.quality.acceptance import verdict
from adadm.calibration.quality.gates import GateResult
from adadm.calibration.quality.photographs import CalibrationImages, Photograph
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import Batch, batch_from_image, image_from_batch
from adadm.runtime.images.metrics import psnr_y
from adadm.runtime.json_format import Figure, rounded
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.tables import Console, make_table

Output = tuple[Batch, list[Batch]]
"""`sr` (1, 3, H, W), and the modulation factors (1, 1, 1, 1) in graph order, if known."""

OnOutputs = Callable[[Photograph, Sequence[Output]], object]


@dataclass(frozen=True)
class Stage:
    """A form of a model.

    Attributes:
        run: maps a batch (1, 3, H, W) to its output.
    """

    name: str
    run: Callable[[Batch], Output]


@dataclass(frozen=True)
class StageResult:
    """Figures of a stage over all photographs; the first stage is the reference.

    Attributes:
        psnr_y_db: mean PSNR-Y of 8-bit images against the originals; NaN without originals.
        lost_db: PSNR-Y lost to the previous stage; None for the first.
        parity_db: PSNR of the float outputs against the reference's, peak rgb_range; infinite
            if equal, None for the first.
        largest_error: largest error against the reference's output, grey levels of 255.
        factor_error: largest relative error of a modulation factor against the reference's; None
            if either is unknown.
        factor_block: index of the block with that factor.
    """

    name: str
    psnr_y_db: Figure
    lost_db: float | None
    parity_db: float | None
    largest_error: float
    factor_error: float | None
    factor_block: int | None


@dataclass(frozen=True)
class Ledger:
    """The stages in order, and the artefact gates of the lowered model for whole images.

    Attributes:
        gates: artefact gates, inputs on which float32 is lost, comparison with bicubic
            interpolation.
    """

    photographs: int
    stages: tuple[StageResult, ...]
    gates: tuple[GateResult, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The ledger with six digits, and null for infinite figures; equal for equal runs."""
        content = {
            "photographs": self.photographs,
            "stages": self.stages,
            "gates": [gate.as_json() for gate in self.gates],
        }
        ready: dict[str, Any] = rounded(content)
        return ready


def measure(
    stages: Sequence[Stage],
    images: CalibrationImages | Sequence[Photograph],
    rgb_range: float,
    upscale: int,
    *,
    on_outputs: OnOutputs = lambda *_: None,
    originals: bool = True,
    progress: Progress = SILENT,
) -> Ledger:
    """Run each photograph through all stages, holding the outputs of one photograph at a time.

    Args:
        stages: the first is the reference.
        on_outputs: called with each photograph and the outputs of all stages.
        originals: True if photographs have originals; otherwise PSNR-Y is NaN.

    Raises:
        CalibrationError: an output is not finite, or equals the original; or the stages differ in
            shape or in the number of factors.
    """
    tallies = [_Tally() for _ in stages]
    photographs = len(images)
    for count, photograph in enumerate(images, 1):
        progress.advance(count, photographs, photograph.name)
        lr = batch_from_image(photograph.lr, rgb_range)
        outputs: list[Output] = []
        for stage, tally in zip(stages, tallies, strict=True):
            outputs.append(output := stage.run(lr))
            _check(f"{photograph.name}, {stage.name}", output, outputs[0])
            if originals:
                tally.psnr_y_db.append(_psnr_y_db(output, photograph, stage, rgb_range, upscale))
            tally.add(output, outputs[0])
        on_outputs(photograph, outputs)
    measured: list[StageResult] = []
    for stage, tally in zip(stages, tallies, strict=True):
        db = math.fsum(tally.psnr_y_db) / photographs if originals else math.nan
        mean_square = tally.squares / tally.values
        factor_error, factor_block = (measured and tally.worst_factor) or (None, None)
        measured.append(
            StageResult(
                name=stage.name,
                psnr_y_db=db,
                lost_db=measured[-1].psnr_y_db - db if measured else None,
                parity_db=_parity_db(mean_square, rgb_range) if measured else None,
                largest_error=tally.largest_error * 255 / rgb_range,
                factor_error=factor_error,
                factor_block=factor_block,
            )
        )
    return Ledger(photographs, tuple(measured))


def print_ledger(ledger: Ledger, console: Console) -> None:
    """Print the stages and the gates as tables, which fit 80 columns."""
    title = f"Drift over {ledger.photographs} photographs: dB, largest errors in grey levels"
    headers = ("stage", "PSNR-Y", "lost", "parity", "error", "factor")
    table = make_table(title, headers, left=("stage",))
    for stage in ledger.stages:
        factor = "-"
        if stage.factor_error is not None:
            factor = f"{stage.factor_error:.1e} in block {stage.factor_block}"
        table.add_row(
            stage.name,
            "-" if math.isnan(stage.psnr_y_db) else f"{stage.psnr_y_db:.3f}",
            "-" if stage.lost_db is None or math.isnan(stage.lost_db) else f"{stage.lost_db:+.4f}",
            "-" if stage.parity_db is None else f"{stage.parity_db:.1f}",
            f"{stage.largest_error:.2g}",
            factor,
        )
    console.print(table)
    if not ledger.gates:
        return
    table = make_table(
        "Artefacts that the lowered model adds, and failures of float32 itself",
        ("gate", "figure", "limit", "worst on", ""),
        left=("gate", ""),
        fold=("worst on",),
    )
    for result in ledger.gates:
        gate = result.gate
        table.add_row(
            gate.name,
            f"{result.figure:.2f} {gate.unit}",
            f"{gate.threshold:g}",
            result.where,
            verdict(passed=result.passed, accepted=result.accepted),
        )
    console.print(table)


def _psnr_y_db(
    found: Output, photograph: Photograph, stage: Stage, rgb_range: float, upscale: int
) -> float:
    psnr_y_db = psnr_y(image_from_batch(found[0], rgb_range), photograph.hr, shave=upscale)
    if math.isinf(psnr_y_db):
        raise CalibrationError(
            f"{photograph.name}: {stage.name} reproduces the original exactly, so that the loss "
            "in dB is undefined; leave this photograph out"
        )
    return psnr_y_db


class _Tally:
    """Sums over photographs, in float64."""

    def __init__(self) -> None:
        self.psnr_y_db: list[float] = []
        self.squares, self.values, self.largest_error = 0.0, 0, 0.0
        self.worst_factor: tuple[float, int] | None = None

    def add(self, found: Output, reference: Output) -> None:
        error = found[0].astype(np.float64) - reference[0]
        self.squares += float((error**2).sum())
        self.values += error.size
        self.largest_error = max(self.largest_error, float(np.abs(error).max()))
        for block, pair in enumerate(zip(found[1], reference[1], strict=False)):
            factor, expected = (float(value.item()) for value in pair)
            relative = relative_error(factor, expected)
            if self.worst_factor is None or relative > self.worst_factor[0]:
                self.worst_factor = relative, block


def _check(where: str, found: Output, reference: Output) -> None:
    (sr, factors), (expected, expected_factors) = found, reference
    if sr.shape != expected.shape or (
        factors and expected_factors and len(factors) != len(expected_factors)
    ):
        raise CalibrationError(
            f"{where}: expected an output {expected.shape} with {len(expected_factors)} factors, "
            f"got {sr.shape} with {len(factors)}"
        )
    if not all(np.isfinite(array).all() for array in (sr, *factors)):
        raise CalibrationError(f"{where}: the output or a modulation factor is not finite")


def _parity_db(mean_square: float, peak: float) -> float:
    return 10 * math.log10(peak**2 / mean_square) if mean_square else math.inf


def relative_error(factor: float, expected: float) -> float:
    """Relative error of a modulation factor; defined for an expected factor of 0 too."""
    return abs(factor - expected) / max(abs(expected), float(np.finfo(np.float32).tiny))
