"""Errors of a layer against its reference, over all pixels of all images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BORDER_PX = 2


class LayerErrors:
    """Sums over images, by channel, in float64.

    The signal is the deviation from the mean of each channel. A constant carries no information,
    and the shift of a trunk could make the power arbitrarily large.
    """

    def __init__(self) -> None:
        self._pixels = self._inner_pixels = 0
        # Sums by channel: signal, error, their products, and the error away from the border.
        self._x, self._e, self._xx, self._ee, self._xe, self._inner_ee = np.zeros((6, 1))

    def add(self, expected: Array, found: Array, height: int) -> None:
        """Add images (N, C, H, W).

        Args:
            height: height of the network's input, px; it gives the width of the border here.
        """
        ring = math.ceil(_BORDER_PX * expected.shape[2] / height)
        sums = []
        with np.errstate(invalid="ignore"):  # the error of infinite values is NaN
            for channel in range(expected.shape[1]):  # one channel fits the CPU cache
                x = expected[:, channel].astype(np.float64)
                e = found[:, channel] - x
                inner = e[:, ring:-ring, ring:-ring]
                products = [_product(*pair) for pair in ((x, x), (e, e), (x, e), (inner, inner))]
                sums.append((x.sum(), e.sum(), *products))
        self._pixels += x.size
        self._inner_pixels += inner.size
        before = (self._x, self._e, self._xx, self._ee, self._xe, self._inner_ee)
        self._x, self._e, self._xx, self._ee, self._xe, self._inner_ee = np.add(
            before, np.transpose(sums)
        )

    @property
    def snr_db(self) -> float:
        """Signal over error, dB; infinite without error, minus infinity for non-finite values."""
        return self._db(self._ee, self._pixels)

    @property
    def border_db(self) -> float:
        """Signal over the error in the outer two pixels of low resolution, dB."""
        with np.errstate(invalid="ignore"):
            outer_ee = self._ee - self._inner_ee
        return self._db(outer_ee, self._pixels - self._inner_pixels)

    @property
    def interior_db(self) -> float:
        """Signal over the error in the other pixels, dB; in all pixels if there are no others."""
        if not self._inner_pixels:
            return self.snr_db
        return self._db(self._inner_ee, self._inner_pixels)

    @property
    def shifted_channel(self) -> int:
        """Index of the channel with the largest mean error."""
        return int(np.abs(self._e).argmax())

    @property
    def largest_shift(self) -> float:
        """Magnitude of the largest mean error of a channel; infinite for non-finite values."""
        shift = abs(float(self._e[self.shifted_channel])) / self._pixels
        return shift if math.isfinite(shift) else math.inf

    @property
    def relative_shift(self) -> float:
        """Largest mean error of a channel, as a share of the std."""
        if self.std == 0:
            return math.inf if self.largest_shift else 0.0
        return self.largest_shift / self.std

    @property
    def std(self) -> float:
        """Standard deviation of the signal, root mean square over the channels."""
        return math.sqrt(max(0.0, float(self._variance.mean())))

    @property
    def gain(self) -> float:
        """Least-squares gain of the signal; 1 if undefined."""
        power = float(self._variance.sum()) * self._pixels
        with np.errstate(invalid="ignore"):
            covariance = float((self._xe - self._x * self._e / self._pixels).sum())
        return 1 + covariance / power if power > 0 and math.isfinite(covariance) else 1.0

    @property
    def _variance(self) -> Array:
        return self._xx / self._pixels - (self._x / self._pixels) ** 2

    def _db(self, squares: Array, pixels: int) -> float:
        error = float(squares.mean()) / pixels
        if error <= 0:  # negative by rounding of a difference
            return math.inf
        if not math.isfinite(error) or self.std == 0:
            return -math.inf
        return 20 * math.log10(self.std) - 10 * math.log10(error)


def _product(one: Array, other: Array) -> float:
    """Sum of products, without BLAS, whose threads wait for each other on a busy machine."""
    return float(np.einsum("nhw,nhw->", one, other))
