"""Compare the output of one backend with another's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.runtime.errors import ParityError
from adadm.runtime.images.metrics import psnr

FloatArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """The difference between an expected and a found batch (N, C, H, W).

    Attributes:
        largest_error: largest absolute difference.
        worst_at: index of the largest error (n, c, y, x).
        border_error: largest absolute difference within `border_px` of an edge.
        interior_error: largest absolute difference elsewhere; None if there is no interior.
        peak: largest absolute value expected.
        psnr_db: PSNR against `peak`, dB; infinite when equal.
    """

    name: str
    shape: tuple[int, ...]
    largest_error: float
    worst_at: tuple[int, ...]
    border_px: int
    border_error: float
    interior_error: float | None
    peak: float
    psnr_db: float

    def __str__(self) -> str:
        interior = "none" if self.interior_error is None else f"{self.interior_error:.3g}"
        return (
            f"{self.name} {self.shape}: largest error {self.largest_error:.3g} of a peak of "
            f"{self.peak:.4g} at {self.worst_at}; border {self.border_error:.3g}, "
            f"interior {interior}; {self.psnr_db:.1f} dB"
        )


def compare(name: str, found: FloatArray, expected: FloatArray, border_px: int) -> Comparison:
    """Compare batches (N, C, H, W) in float64.

    Raises:
        ParityError: shapes or data types differ, or a value is not finite.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ParityError(
            f"{name}: expected {expected.dtype} {expected.shape}, got {found.dtype} {found.shape}"
        )
    for which, array in (("expected", expected), ("found", found)):
        if not np.isfinite(array).all():
            first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ParityError(f"{name}: the {which} output has {array[first]} at {first}")
    error = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    worst = tuple(int(i) for i in np.unravel_index(error.argmax(), error.shape))
    inner = np.s_[..., border_px:-border_px, border_px:-border_px]
    interior, border = error[inner], error.copy()
    border[inner] = 0
    peak = float(np.abs(expected).max())
    return Comparison(
        name=name,
        shape=expected.shape,
        largest_error=float(error[worst]),
        worst_at=worst,
        border_px=border_px,
        border_error=float(border.max()),
        interior_error=float(interior.max()) if interior.size else None,
        peak=peak,
        psnr_db=psnr(found, expected, peak) if peak else math.inf,
    )
