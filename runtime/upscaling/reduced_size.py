"""Results smaller than the network makes them: a size or a factor, and rows reduced to it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import Pixels, to_integers
from adadm.runtime.upscaling.memory import HeightWidth

_LANCZOS_REACH = 3  # pixels of the result
_ROWS = 64


@dataclass(frozen=True)
class ResultSize:
    """Size of a result: a factor, or a box that it fits into; by default as the network makes it.

    Attributes:
        factor: factor of both sides, such as 1.5.
        width, height: sides of the box, px; None for any.
    """

    factor: float | None = None
    width: int | None = None
    height: int | None = None

    @staticmethod
    def in_box(text: str) -> ResultSize:
        """Parse `1920x1080`, `1920x` or `x1080`.

        Raises:
            ValueError: the text is neither.
        """
        match = re.fullmatch(r"([1-9]\d{0,8})?x([1-9]\d{0,8})?", text)
        if not match or text == "x":
            raise ValueError(f"expected WxH, Wx or xH, such as 1920x1080, got {text!r}")
        width, height = (int(side) if side else None for side in match.groups())
        return ResultSize(width=width, height=height)

    def factor_of(self, height: int, width: int) -> float | None:
        """Factor of both sides of an image; None if that of the network stays."""
        ratios = [
            side / length
            for side, length in ((self.width, width), (self.height, height))
            if side is not None
        ]
        return self.factor or min(ratios, default=None)

    def of(self, height: int, width: int, upscale: int) -> HeightWidth:
        """Height and width of the result of an image, px, at least 1 each.

        An image keeps its aspect ratio: the result fills the box along one side.

        Raises:
            ImageError: the result would be larger than the network makes it.
        """
        factor = self.factor_of(height, width) or upscale
        if factor > upscale:
            raise ImageError(
                f"expected a result of at most {upscale} times {width}x{height} px, the model's "
                f"factor, got {factor:.4g} times; give a smaller --size or --scale, or a model of "
                "a larger factor"
            )
        most = (self.height or math.inf, self.width or math.inf)
        sides = (
            max(1, min(round(factor * length), limit))
            for length, limit in zip((height, width), most, strict=True)
        )
        result = tuple(int(side) for side in sides)
        return result[0], result[1]


def reduced_rows(
    rows: Iterator[Pixels], size: HeightWidth, wanted: HeightWidth, *, has_alpha: bool
) -> Iterator[Pixels]:
    """Reduce an image that comes by rows, with Pillow's Lanczos kernel in floating point.

    The kernel is stretched by the factor, which suppresses aliasing. Colour counts by its alpha.

    Args:
        rows: (h, W, C) of uint8 or uint16, from top to bottom.
        size: H and W of the image.
        wanted: H and W of the result.
        has_alpha: True if the last channel is alpha.

    Yields:
        Rows of the result, of the same data type.
    """
    if size == wanted:
        yield from rows
        return
    factor = size[0] / wanted[0]
    reach = math.ceil(_LANCZOS_REACH * max(1, factor)) + 1
    held = _Held(rows, has_alpha=has_alpha)
    for top in range(0, wanted[0], _ROWS):
        bottom = min(top + _ROWS, wanted[0])
        first, last = math.floor(top * factor) - reach, math.ceil(bottom * factor) + reach
        part, start = held.between(max(0, first), min(size[0], last))
        box = (0, top * factor - start, size[1], min(bottom * factor - start, len(part)))
        planes = [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(part[..., c])).resize(
                    (wanted[1], bottom - top), Image.Resampling.LANCZOS, box
                )
            )
            for c in range(part.shape[2])
        ]
        yield held.as_pixels(np.stack(planes, axis=-1))


class _Held:
    """The rows that a kernel still needs, as float32, with colour times alpha."""

    def __init__(self, rows: Iterator[Pixels], *, has_alpha: bool) -> None:
        self._rows, self._has_alpha = rows, has_alpha
        self._parts: list[npt.NDArray[np.float32]] = []
        self._start = self._stop = 0
        self._dtype: np.dtype[np.uint8 | np.uint16] = np.dtype(np.uint8)

    def between(self, first: int, last: int) -> tuple[npt.NDArray[np.float32], int]:
        """Rows that include `first` to `last`, and the number of the first of them."""
        while self._stop < last:
            rows = next(self._rows)
            self._dtype = rows.dtype
            values = rows.astype(np.float32)
            if self._has_alpha:
                values[..., :-1] *= values[..., -1:] / np.float32(np.iinfo(rows.dtype).max)
            self._parts.append(values)
            self._stop += len(rows)
        while self._start + len(self._parts[0]) <= first:
            self._start += len(self._parts.pop(0))
        return np.concatenate(self._parts), self._start

    def as_pixels(self, values: npt.NDArray[np.float32]) -> Pixels:
        if self._has_alpha:
            alpha = np.clip(values[..., -1:] / np.float32(np.iinfo(self._dtype).max), 0, 1)
            colour = np.divide(
                values[..., :-1], alpha, out=np.zeros_like(values[..., :-1]), where=alpha > 0
            )
            values = np.concatenate([colour, values[..., -1:]], axis=-1)
        return to_integers(values, self._dtype)
