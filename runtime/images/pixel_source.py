"""Sources of pixels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import Pixels


class PixelSource(Protocol):
    """An image read by regions: an array, or a file that need not fit into memory."""

    height: int
    width: int
    dtype: np.dtype[Any]

    def colour(self, top: int, left: int, height: int, width: int) -> Pixels:
        """A region (h, w, 3), RGB."""


class ArrayPixels:
    """An image in memory.

    Args:
        image: uint8 or uint16 (H, W, 3), RGB.

    Raises:
        ImageError: the array has another shape or type, or no pixels.
    """

    def __init__(self, image: Pixels) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, np.uint16):
            raise ImageError(
                f"expected an image of uint8 or uint16 (H, W, 3), got {image.dtype} {image.shape}"
            )
        if not image.size:
            raise ImageError(f"expected an image with pixels, got shape {image.shape}")
        self.image = image
        self.height, self.width = image.shape[:2]
        self.dtype: np.dtype[Any] = image.dtype

    def colour(self, top: int, left: int, height: int, width: int) -> Pixels:
        return self.image[top : top + height, left : left + width]
