"""Cut an image into overlapping windows of one shape."""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A window along one axis, px.

    Attributes:
        start, stop: pixels read.
        inner_start, inner_stop: share of the result that comes from this window; the pixels
            around it are its halo.
    """

    start: int
    stop: int
    inner_start: int
    inner_stop: int

    @property
    def length(self) -> int:
        """Pixels read."""
        return self.stop - self.start

    @property
    def share(self) -> int:
        """Pixels of the result that come from this window, at the scale of the input."""
        return self.inner_stop - self.inner_start

    @property
    def inside(self) -> slice:
        """The share, relative to the window's start."""
        return slice(self.inner_start - self.start, self.inner_stop - self.start)


Window = tuple[Span, Span]
"""Rows and columns."""


def spans(length: int, size: int, overlap: int) -> list[Span]:
    """Cut an axis into windows of `size` pixels, or one of `length` if that is no more.

    The shares cover the axis once. Each lies at least `overlap` pixels inside its window, except
    at the ends of the image, where the network pads as it does with the whole image. The last
    window moves back, so that all have the same size.

    Args:
        size: more than twice the overlap.
    """
    if length <= size:
        return [Span(0, length, 0, length)]
    step = size - 2 * overlap
    starts = [*range(0, length - size, step), length - size]
    cuts = [0, *(start + overlap for start in starts[1:]), length]
    return [
        Span(start, start + size, first, last)
        for start, (first, last) in zip(starts, itertools.pairwise(cuts), strict=True)
    ]


def grid(height: int, width: int, size: tuple[int, int], overlap: int) -> list[list[Window]]:
    """The windows of an image, row by row."""
    columns = spans(width, size[1], overlap)
    return [[(row, column) for column in columns] for row in spans(height, size[0], overlap)]
