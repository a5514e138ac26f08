"""How an image is cut into windows of one shape that overlap."""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A window along one axis, px.

    Attributes:
        start, stop: what is read.
        inner_start, inner_stop: the share of the image that this window answers for; what lies
            around it is its halo.
    """

    start: int
    stop: int
    inner_start: int
    inner_stop: int

    @property
    def length(self) -> int:
        """Of what is read."""
        return self.stop - self.start

    @property
    def share(self) -> int:
        """Of what this window answers for."""
        return self.inner_stop - self.inner_start

    @property
    def inside(self) -> slice:
        """The share, counted from the window's own start."""
        return slice(self.inner_start - self.start, self.inner_stop - self.start)


Window = tuple[Span, Span]
"""Rows and columns."""


def spans(length: int, size: int, overlap: int) -> list[Span]:
    """Cut an axis into windows of `size` pixels, or one of `length` where that is not more.

    The shares of the windows cover the axis once. Each lies `overlap` pixels or more inside its
    window, but for the ends of the image, where there is nothing to read and the network pads as
    it does with the whole image. The last window moves back, so that all have the same size.

    Args:
        size: above twice the overlap.
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
