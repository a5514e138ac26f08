"""How far a layer is from its reference, over all pixels of all images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LayerErrors"]

Array = npt.NDArray[Any]

_BORDER_PX = 2


class LayerErrors:
    """Sums over what is added, by channel, in float64.

    Error is compared with the power of the signal about the mean of each channel: a constant
    carries nothing, and the shift of a trunk would make the power as large as one likes.
    """

    def __init__(self) -> None:
        self._pixels = self._inner_pixels = 0
        self._x = self._xx = self._e = self._ee = self._xe = self._inner_ee = np.zeros(1)

    def add(self, expected: Array, found: Array, height: int) -> None:
        """Count images (N, C, H, W).

        Args:
            height: of the network's input, which tells how wide its border is here.
        """
        x = expected.astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinite values make the error no number
            e = found - x
        ring = math.ceil(_BORDER_PX * x.shape[2] / height)
        inner = e[..., ring:-ring, ring:-ring]
        self._pixels += x[:, 0].size
        self._inner_pixels += inner[:, 0].size
        self._x = self._x + x.sum(axis=(0, 2, 3))
        self._e = self._e + e.sum(axis=(0, 2, 3))
        self._xx = self._xx + _products(x, x)
        self._ee = self._ee + _products(e, e)
        self._xe = self._xe + _products(x, e)
        self._inner_ee = self._inner_ee + _products(inner, inner)

    @property
    def snr_db(self) -> float:
        """Signal over error; infinite without error, minus infinity for what is not finite."""
        return self._db(self._ee, self._pixels)

    @property
    def border_db(self) -> float:
        """The same of the error in the outer two pixels of low resolution."""
        return self._db(self._ee - self._inner_ee, self._pixels - self._inner_pixels)

    @property
    def interior_db(self) -> float:
        """The same of the error in the other pixels."""
        return self._db(self._inner_ee, self._inner_pixels)

    @property
    def shifts(self) -> Array:
        """The mean error of each channel (C,)."""
        return self._e / self._pixels

    @property
    def std(self) -> float:
        """Of the signal, root mean square over the channels."""
        return math.sqrt(max(0.0, float(self._variance.mean())))

    @property
    def gain(self) -> float:
        """By what the signal is multiplied, least squares."""
        covariance = self._xe - self._x * self._e / self._pixels
        return 1 + float(covariance.sum() / (self._variance.sum() * self._pixels))

    @property
    def _variance(self) -> Array:
        return self._xx / self._pixels - (self._x / self._pixels) ** 2

    def _db(self, squares: Array, pixels: int) -> float:
        error = float(squares.mean()) / pixels if pixels else 0.0
        if error <= 0:  # less than 0 is the rounding of a difference
            return math.inf
        if not math.isfinite(error) or self.std == 0:
            return -math.inf
        return 20 * math.log10(self.std) - 10 * math.log10(error)


def _products(one: Array, other: Array) -> Array:
    return np.einsum("nchw,nchw->c", one, other)
