"""Measured losses of assignments of convolutions to INT8, stored on disk.

A loss has two figures, since neither suffices alone. The PSNR-Y loss against the originals is what
a user wants to know, but chance moves it by some thousandths of a dB, below zero too. The power of
the error that lowering adds is never negative, hardly depends on chance, and nearly adds up over
convolutions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adadm.calibration.quality.gates import Run, shown_levels
from adadm.calibration.quality.photographs import Photograph
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import not_kept
from adadm.runtime.images.arrays import Batch, batch_from_image, image_from_batch
from adadm.runtime.images.metrics import luma, psnr_y
from adadm.runtime.json_format import Figure
from adadm.runtime.records import read_record, write_record

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loss:
    """Loss by lowering, on Y, as means over photographs; both infinite for a broken model.

    Attributes:
        lost_db: PSNR-Y of 8-bit images against the originals, float32's minus the lowered model's;
            may be negative by chance.
        noise_db: 10 log10(1 + mse(lowered, float32) / mse(float32, original)), before rounding:
            the loss if the error of lowering is uncorrelated with that of float32.
    """

    lost_db: Figure
    noise_db: Figure

    @property
    def judged_db(self) -> float:
        """The larger of both losses.

        If `lost_db` is smaller, the error happens to point towards these originals. Other
        originals will lose `noise_db`. If `lost_db` is larger, the error is systematic, and applies
        to other originals too.
        """
        return max(self.lost_db, self.noise_db)


@dataclass(frozen=True)
class LossMeter:
    """Loss measurement of lowered models against one float32 reference; made by `of`.

    Attributes:
        cases: all photographs, with 8 bytes of memory for each pixel of the reference's outputs.
    """

    cases: Sequence[_Case]
    rgb_range: float
    upscale: int

    @classmethod
    def of(
        cls, reference: Run, photographs: Iterable[Photograph], *, rgb_range: float, upscale: int
    ) -> LossMeter:
        """Run the reference once on each photograph.

        Args:
            reference: batches (1, 3, H, W) in 0..rgb_range to (1, 3, upscale*H, upscale*W).

        Raises:
            CalibrationError: there is no photograph; or the reference's output of one is not
                finite, or equals the original, so that the loss in dB is undefined.
            ImageError: an output differs from the original in size.
        """
        cases: list[_Case] = []
        meter = cls(cases, rgb_range, upscale)
        for photograph in photographs:
            sr = reference(batch_from_image(photograph.lr, rgb_range))
            if not np.isfinite(sr).all():
                raise CalibrationError(f"{photograph.name}: the float32 output is not finite")
            psnr_y_db, shown = meter._psnr_y(sr, photograph), meter._shown(sr)
            error = _mean_square(shown, meter._inner(luma(photograph.hr)))
            if not error or math.isinf(psnr_y_db):
                raise CalibrationError(
                    f"{photograph.name}: float32 reproduces the original exactly, so that the loss "
                    "in dB is undefined; leave this photograph out"
                )
            cases.append(_Case(photograph, psnr_y_db, shown, error))
        if not cases:
            raise CalibrationError(
                "expected at least one photograph to measure a loss on, got none"
            )
        return meter

    def loss_of(self, lowered: Run) -> Loss:
        """Run a lowered model on each photograph; loss infinite if an output is not finite."""
        lost, noise = [], []
        for case in self.cases:
            sr = lowered(batch_from_image(case.photograph.lr, self.rgb_range))
            if not np.isfinite(sr).all():
                return Loss(math.inf, math.inf)
            lost.append(case.psnr_y_db - self._psnr_y(sr, case.photograph))
            added = _mean_square(self._shown(sr), case.shown)
            noise.append(10 * math.log10(1 + added / case.error))
        return Loss(*(math.fsum(values) / len(values) for values in (lost, noise)))

    def _psnr_y(self, sr: Batch, photograph: Photograph) -> float:
        return psnr_y(image_from_batch(sr, self.rgb_range), photograph.hr, self.upscale)

    def _shown(self, sr: Batch) -> npt.NDArray[np.float64]:
        """Y without the border that PSNR-Y leaves out, clipped to black and white, not rounded."""
        return self._inner(luma(shown_levels(sr, self.rgb_range).transpose(1, 2, 0)))

    def _inner(self, plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return plane[self.upscale : -self.upscale, self.upscale : -self.upscale]


@dataclass(frozen=True)
class _Case:
    """A photograph with the reference's figures."""

    photograph: Photograph
    psnr_y_db: float
    shown: npt.NDArray[np.float64]
    error: float


def _mean_square(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(np.mean((a - b) ** 2))


@dataclass(frozen=True)
class _Row(Loss):
    """A line of the store."""

    int8: tuple[str, ...]


class Evaluations:
    """Losses by assignment, each measured once.

    Args:
        measure: returns the loss with exactly these convolutions in INT8.
        store: JSON file, written whole after each measurement, so that an interrupted search
            resumes. Its name must depend on everything that losses depend on: the model, the
            photographs, the ranges. An unreadable store is replaced, and one that cannot be
            written is given up, with a warning.
    """

    def __init__(
        self, measure: Callable[[frozenset[str]], Loss], store: Path | None = None
    ) -> None:
        self._measure, self._store = measure, store
        rows = read_record(tuple[_Row, ...], store, _logger.warning) if store else None
        self._known = {frozenset(row.int8): Loss(row.lost_db, row.noise_db) for row in rows or ()}

    def __call__(self, int8: Iterable[str]) -> Loss:
        """The loss with exactly these convolutions in INT8."""
        assignment = frozenset(int8)
        if assignment not in self._known:
            self._known[assignment] = self._measure(assignment)
            self._save()
        return self._known[assignment]

    def _save(self) -> None:
        if self._store is None:
            return
        rows = [
            _Row(loss.lost_db, loss.noise_db, tuple(sorted(assignment)))
            for assignment, loss in self._known.items()
        ]
        try:
            write_record(self._store, rows)
        except OSError as error:
            _logger.warning("%s", not_kept(error))
            self._store = None
