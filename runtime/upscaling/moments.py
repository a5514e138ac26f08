"""The statistic of an image from the moments of its tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["pooled_std"]


def pooled_std(moments: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
    """The unbiased std of each trunk over all tiles.

    Args:
        moments: (N, B, 3) of each tile or batch of tiles: count, mean, and sum of squared
            deviations from that mean, for each of B trunks.

    Returns:
        (B,), computed in float64: `squares = sum(squares_i + count_i (mean_i - mean)^2)` (Chan,
        Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979).
    """
    count, mean, squares = np.concatenate(moments).astype(np.float64).transpose(2, 0, 1)
    total = count.sum(axis=0)
    with np.errstate(invalid="ignore", over="ignore"):  # of a network that diverges
        pooled_mean = (count * mean).sum(axis=0) / total
        pooled = (squares + count * (mean - pooled_mean) ** 2).sum(axis=0)
        return np.asarray(np.sqrt(pooled / np.maximum(total - 1, 1)))
