"""Sources of pixels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import Pixels

_STRIP_PX = 256


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


class PaddedPixels:
    """A pixel source whose sides are mirrored up to a least length.

    Args:
        source: the image.
        least_px: least height and width.

    Attributes:
        top, left: where the image begins.
    """

    def __init__(self, source: PixelSource, least_px: int) -> None:
        image = source.colour(0, 0, source.height, source.width)
        missing = [max(0, least_px - side) for side in image.shape[:2]]
        self.top, self.left = (pixels // 2 for pixels in missing)
        pads = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
        self._image: Pixels = np.pad(image, [*pads, (0, 0)], mode="symmetric")
        self.height, self.width = self._image.shape[:2]
        self.dtype = source.dtype

    def colour(self, top: int, left: int, height: int, width: int) -> Pixels:
        return self._image[top : top + height, left : left + width]


def has_equal_channels(source: PixelSource) -> bool:
    """True if an image is grey, though it has three channels."""
    for top in range(0, source.height, _STRIP_PX):
        rows = source.colour(top, 0, min(_STRIP_PX, source.height - top), source.width)
        if not (rows == rows[..., :1]).all():
            return False
    return True
