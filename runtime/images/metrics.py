"""Metrics of the super-resolution literature."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import ImageArray, enlarge, reduce

# ITU-R BT.601 studio range, as in MATLAB's rgb2ycbcr and the super-resolution literature.
_LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966])
_LUMA_OFFSET = 16.0


def luma(image: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """The Y channel (H, W) in 16..235 of an image (H, W, 3) in 0..255, not rounded."""
    return image.astype(np.float64) @ (_LUMA_WEIGHTS / 255) + _LUMA_OFFSET


def psnr(
    found: npt.NDArray[np.generic], expected: npt.NDArray[np.generic], peak: float = 255.0
) -> float:
    """Peak signal-to-noise ratio in dB, accumulated in float64; infinite when equal.

    Raises:
        ImageError: the shapes differ.
    """
    if found.shape != expected.shape:
        raise ImageError(f"expected shape {expected.shape}, got {found.shape}")
    error = float(np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def psnr_y(found: ImageArray, expected: ImageArray, shave: int) -> float:
    """PSNR in dB on the Y channel without a border of `shave` pixels, as papers report it."""
    inner = (slice(shave, -shave or None),) * 2
    return psnr(luma(found)[inner], luma(expected)[inner])


_SEEN_DB = 40.0
"""Differences above are not seen."""

LARGEST_LOSS_DB = 1.0
"""Largest loss of resemblance, against bicubic interpolation, of a result that is not lost."""


def resemblance_margin(sr: ImageArray, lr: ImageArray) -> float:
    """By how many dB a result resembles its input better than bicubic interpolation's does.

    Resemblances above 40 dB count as 40. A result is lost below minus `LARGEST_LOSS_DB`.
    """
    bicubic = enlarge(lr, sr.shape[0] // lr.shape[0])
    found, expected = (min(_SEEN_DB, resemblance(image, lr)) for image in (sr, bicubic))
    return found - expected


def resemblance(sr: ImageArray, lr: ImageArray) -> float:
    """PSNR in dB of a result (f*H, f*W, 3), reduced by f, against its input (H, W, 3)."""
    return psnr(reduce(sr, sr.shape[0] // lr.shape[0]), lr)
