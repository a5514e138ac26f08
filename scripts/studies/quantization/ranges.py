"""Other methods to choose the range of a tensor, from a histogram of its magnitudes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.calibration.passes.quantize_convolutions import LARGEST_LEVEL

Array = npt.NDArray[np.float64]

BINS = 2**16
ENTROPY_BINS, ENTROPY_LEVELS = 2048, 128
CANDIDATES = 200
"""Number of ranges that `mean_square` tries, evenly up to the largest magnitude."""


class Histogram:
    """Histogram of magnitudes up to `top`, in `BINS` equal bins."""

    def __init__(self, top: float) -> None:
        self.top = top
        self.counts = np.zeros(BINS)

    def add(self, values: npt.NDArray[np.floating[Any]]) -> None:
        """Count more values; a magnitude above the top counts as the top."""
        bins = (np.abs(values).ravel() * np.float32(BINS / self.top)).astype(np.intp)
        self.counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    @property
    def centers(self) -> Array:
        """Middle of each bin."""
        return np.linspace(0, self.top, BINS, endpoint=False) + 0.5 * self.top / BINS

    @property
    def largest(self) -> float:
        """Upper edge of the last nonempty bin."""
        return float((np.flatnonzero(self.counts)[-1] + 1) * self.top / BINS)


def percentile(histogram: Histogram, percent: float) -> float:
    """Magnitude below which `percent` of the values lie."""
    below = np.cumsum(histogram.counts)
    index = int(np.searchsorted(below, below[-1] * percent / 100))
    return (index + 1) * histogram.top / BINS


def mean_square(histogram: Histogram) -> float:
    """Range with the least mean square error, of rounding and of clipping together."""
    centers, counts = histogram.centers, histogram.counts
    candidates = histogram.largest * np.arange(1, CANDIDATES + 1) / CANDIDATES
    errors = []
    for candidate in candidates:
        scale = candidate / LARGEST_LEVEL
        rounded = np.minimum(np.rint(centers / scale), LARGEST_LEVEL) * scale
        errors.append(float(counts @ (rounded - centers) ** 2))
    return float(candidates[int(np.argmin(errors))])


def entropy(histogram: Histogram) -> float:
    """Range with the least divergence, as in TensorRT's entropy calibrator.

    Of 2048 bins the first 128 or more are kept, and the clipped values are added to the last of
    them. The distribution is compared with itself in 128 levels, each spread over its nonempty
    bins. The divergence is Kullback and Leibler's (Migacz, "8-bit Inference with TensorRT", 2017).
    """
    edges = (0.0, histogram.largest)
    counts, _ = np.histogram(histogram.centers, ENTROPY_BINS, edges, weights=histogram.counts)
    counts[0] = counts[1]  # zeros need no range
    best, least = ENTROPY_BINS, math.inf
    for kept in range(ENTROPY_LEVELS, ENTROPY_BINS + 1):
        distance = divergence(counts, kept)
        if distance <= least:
            best, least = kept, distance
    return histogram.largest * best / ENTROPY_BINS


def divergence(counts: Array, kept: int) -> float:
    """Divergence of the distribution, cut after `kept` bins, from 128 levels; may be infinite."""
    inside = counts[:kept]
    reference = inside.copy()
    reference[-1] += counts[kept:].sum()
    level = np.arange(kept) * ENTROPY_LEVELS // kept
    present = inside > 0
    held = np.bincount(level, inside) / np.maximum(np.bincount(level, present), 1)
    lowered = held[level] * present
    seen = reference > 0
    if (lowered[seen] == 0).any():
        return math.inf
    share, other = reference[seen] / reference.sum(), lowered[seen] / lowered.sum()
    return float((share * np.log(share / other)).sum())
