"""Photographs that repeating pixels enlarges exactly, so that every error is a planted one."""

from __future__ import annotations

import numpy as np

from adadm.calibration.quality.photographs import Photograph
from adadm.runtime.images.arrays import ImageArray

UPSCALE = 2


def _photograph(name: str, height: int, width: int) -> Photograph:
    """Levels 40..200, so that planted errors are not clipped."""
    rng = np.random.default_rng(height)
    lr: ImageArray = rng.integers(40, 200, (height, width, 3)).astype(np.uint8)
    return Photograph(name, name, lr.repeat(UPSCALE, axis=0).repeat(UPSCALE, axis=1), lr)


PHOTOGRAPHS = [_photograph("a.png", 17, 23), _photograph("b.png", 31, 19)]
