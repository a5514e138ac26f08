"""Results of each photograph, collected while the ledger is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from adadm.calibration.quality.gates import shown_levels
from adadm.calibration.quality.ledger import Output, relative_error
from adadm.calibration.quality.photographs import Photograph
from adadm.deployment.certification.reached_limits import LimitEffect, Unlimited
from adadm.deployment.certification.report.crops import Crop
from adadm.runtime.images.arrays import ImageArray, batch_from_image, enlarge, image_from_batch
from adadm.runtime.images.metrics import psnr, psnr_y
from adadm.runtime.json_format import Figure

_CROP_PX = 96
_STRIDE_PX = 16
_CROPS = 3

Levels = npt.NDArray[np.float64]


class PsnrY(TypedDict):
    """PSNR-Y against the original, dB."""

    reference: Figure
    model: Figure


@dataclass(frozen=True)
class PhotographResult:
    """Figures of a model on one photograph.

    Attributes:
        parity_db: PSNR of its float output against the reference's; infinite if equal.
        psnr_y_db: of both models; None without an original.
        lost_db: PSNR-Y of the reference minus that of the model; None without an original.
        bicubic_db: PSNR-Y of bicubic interpolation; None without an original.
        largest_error: largest error against the reference, grey levels of 255.
        limits: effect of the limits on the reference; None if it was not measured.
    """

    name: str
    parity_db: Figure
    psnr_y_db: PsnrY | None
    lost_db: float | None
    bicubic_db: float | None
    largest_error: float
    limits: LimitEffect | None


@dataclass(frozen=True)
class BlockResult:
    """Modulation factors of one block over all photographs.

    Attributes:
        block: index in graph order.
        expected: least, mean and largest factor of the reference.
        found: least, mean and largest factor of the model; None if it does not return them.
        error: largest relative error; None without `found`.
    """

    block: int
    name: str
    expected: tuple[float, float, float]
    found: tuple[float, float, float] | None
    error: float | None


class Observations:
    """Collect results as the `on_outputs` of `ledger.measure`.

    Args:
        model: index of the model among the stages; the first is the reference.
        originals: True if photographs have originals.
        unlimited: the reference without its limits.
    """

    def __init__(
        self,
        model: int,
        *,
        rgb_range: float,
        upscale: int,
        originals: bool,
        unlimited: Unlimited | None = None,
    ) -> None:
        self._model, self._rgb_range, self._unlimited = model, rgb_range, unlimited
        self._upscale, self._originals = upscale, originals
        self._expected: list[list[float]] = []
        self._found: list[list[float]] = []
        self._crops: list[tuple[float, Crop]] = []
        self._largest: tuple[float, Crop] | None = None
        self.photographs: list[PhotographResult] = []

    def __call__(self, photograph: Photograph, outputs: Sequence[Output]) -> None:
        (expected, wanted), (found, factors) = outputs[0], outputs[self._model]
        error = found.astype(np.float64) - expected
        db = psnr(found, expected, self._rgb_range)
        reference, shown = (image_from_batch(sr, self._rgb_range) for sr in (expected, found))
        psnr_y_db: PsnrY | None = None
        bicubic_db: float | None = None
        if self._originals:
            r = self._upscale
            psnr_y_db = {
                "reference": psnr_y(reference, photograph.hr, r),
                "model": psnr_y(shown, photograph.hr, r),
            }
            bicubic_db = psnr_y(enlarge(photograph.lr, r), photograph.hr, r)
        limits = None
        if self._unlimited is not None:
            lr = batch_from_image(photograph.lr, self._rgb_range)
            limits = self._unlimited.effect(lr, outputs[0], self._rgb_range)
        self.photographs.append(
            PhotographResult(
                name=photograph.name,
                parity_db=db,
                psnr_y_db=psnr_y_db,
                lost_db=psnr_y_db["reference"] - psnr_y_db["model"] if psnr_y_db else None,
                bicubic_db=bicubic_db,
                largest_error=float(np.abs(error).max()) * 255 / self._rgb_range,
                limits=limits,
            )
        )
        for side, noted in ((wanted, self._expected), (factors, self._found)):
            noted.append([float(factor.item()) for factor in side])
        levels = shown_levels(found, self._rgb_range) - shown_levels(expected, self._rgb_range)
        if levels.any():
            self._look(photograph, levels, reference, shown)

    def blocks(self, names: Sequence[str]) -> tuple[BlockResult, ...]:
        """Factors of each block."""
        rows = []
        for index, name in enumerate(names):
            expected = [factors[index] for factors in self._expected]
            measured = [factors[index] for factors in self._found if factors]
            errors = [relative_error(*pair) for pair in zip(measured, expected, strict=False)]
            rows.append(
                BlockResult(
                    block=index,
                    name=name,
                    expected=_spread(expected),
                    found=_spread(measured) if measured else None,
                    error=max(errors) if errors else None,
                )
            )
        return tuple(rows)

    def crops(self) -> list[Crop]:
        """Windows with the most error, at most one a photograph, and that of the largest error."""
        chosen = [crop for _, crop in sorted(self._crops, key=lambda pair: -pair[0])[:_CROPS]]
        if self._largest is not None and not any(_overlap(self._largest[1], c) for c in chosen):
            chosen.append(self._largest[1])
        return chosen

    def _look(
        self, photograph: Photograph, levels: Levels, reference: ImageArray, shown: ImageArray
    ) -> None:
        def crop(top: int, left: int, reason: str) -> Crop:
            cut = np.s_[top : top + _CROP_PX, left : left + _CROP_PX]
            original = photograph.hr[cut] if self._originals else None
            return Crop(photograph.name, left, top, reason, original, reference[cut], shown[cut])

        power, top, left = _worst_window(levels)
        self._crops.append(
            (power, crop(top, left, f"most error: {math.sqrt(power):.2g} levels RMS"))
        )
        flat = np.abs(levels).max(axis=0)
        y, x = (int(i) for i in np.unravel_index(flat.argmax(), flat.shape))
        largest = float(flat[y, x])
        if self._largest is None or largest > self._largest[0]:
            top, left = (
                max(0, min(at - _CROP_PX // 2, side - _CROP_PX))
                for at, side in zip((y, x), flat.shape, strict=True)
            )
            self._largest = largest, crop(top, left, f"largest error: {largest:.2g} levels")


def _worst_window(levels: Levels) -> tuple[float, int, int]:
    """Mean square error, top and left (px) of the worst of overlapping windows."""
    squares = (levels**2).mean(axis=0)
    height, width = (min(_CROP_PX, side) for side in squares.shape)
    sums = np.pad(squares, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    windows = (
        sums[height:, width:]
        - sums[:-height, width:]
        - sums[height:, :-width]
        + sums[:-height, :-width]
    )[::_STRIDE_PX, ::_STRIDE_PX]
    top, left = (int(i) for i in np.unravel_index(windows.argmax(), windows.shape))
    power = float(windows[top, left]) / (height * width)
    return power, top * _STRIDE_PX, left * _STRIDE_PX


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), math.fsum(values) / len(values), max(values)


def _overlap(a: Crop, b: Crop) -> bool:
    return (
        a.photograph == b.photograph
        and abs(a.top - b.top) < _CROP_PX // 2
        and abs(a.left - b.left) < _CROP_PX // 2
    )
