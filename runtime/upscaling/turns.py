"""The eight turns of an image, and the mean of a network's results for them.

The self-ensemble of Lim et al., "Enhanced deep residual networks for single image
super-resolution", 2017: the rows that papers mark with "+".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adadm.runtime.images.arrays import Pixels
from adadm.runtime.images.pixel_source import PixelSource
from adadm.runtime.upscaling.tile_plan import Plan
from adadm.runtime.upscaling.windows import Span

Array = npt.NDArray[Any]


class Turn(NamedTuple):
    """A transposition, then mirrors of rows and of columns."""

    is_transposed: bool
    mirrors_rows: bool
    mirrors_columns: bool

    def apply(self, array: Array, rows: int, columns: int) -> Array:
        """Turn an array whose axes `rows` and `columns` are those of an image."""
        turned = array.swapaxes(rows, columns) if self.is_transposed else array
        return np.flip(turned, self._mirrored(rows, columns))

    def undo(self, array: Array, rows: int, columns: int) -> Array:
        """The inverse of `apply`."""
        upright = np.flip(array, self._mirrored(rows, columns))
        return upright.swapaxes(rows, columns) if self.is_transposed else upright

    def plan(self, plan: Plan) -> Plan:
        """The same windows of the turned image."""
        windows = plan.windows
        if self.is_transposed:
            windows = [[(c, r) for r, c in part] for part in zip(*windows, strict=True)]
        height, width = windows[-1][0][0].stop, windows[0][-1][1].stop
        if self.mirrors_rows:
            windows = [[(_mirrored(r, height), c) for r, c in row] for row in windows[::-1]]
        if self.mirrors_columns:
            windows = [[(r, _mirrored(c, width)) for r, c in row[::-1]] for row in windows]
        return replace(plan, windows=windows)

    def _mirrored(self, rows: int, columns: int) -> tuple[int, ...]:
        return (rows,) * self.mirrors_rows + (columns,) * self.mirrors_columns


TURNS = [Turn(*flags) for flags in product((False, True), repeat=3)]
"""All eight; the first leaves an image as it is."""


def mean_of_turns(run: Callable[[Turn, Array], Array], lr: Array) -> Array:
    """Mean of the upright results for the eight turns of an image.

    Args:
        run: runs the network on one turn.
        lr: float32 (1, 3, H, W), or uint8 (1, H, W, 3), of which the mean is rounded.
    """
    rows, columns = (1, 2) if lr.dtype == np.uint8 else (2, 3)
    total: Array | None = None
    for turn in TURNS:
        turned = np.ascontiguousarray(turn.apply(lr, rows, columns))
        result = turn.undo(run(turn, turned), rows, columns).astype(np.float32)
        total = result if total is None else total + result
    assert total is not None
    mean = total / np.float32(len(TURNS))
    return np.rint(mean).astype(np.uint8) if lr.dtype == np.uint8 else mean


class TurnedPixels:
    """A pixel source, turned."""

    def __init__(self, source: PixelSource, turn: Turn) -> None:
        self._source, self._turn = source, turn
        size = source.height, source.width
        self.height, self.width = size[::-1] if turn.is_transposed else size
        self.dtype = source.dtype

    def colour(self, top: int, left: int, height: int, width: int) -> Pixels:
        if self._turn.mirrors_rows:
            top = self.height - top - height
        if self._turn.mirrors_columns:
            left = self.width - left - width
        region = (top, left, height, width)
        if self._turn.is_transposed:
            region = (left, top, width, height)
        return self._turn.apply(self._source.colour(*region), 0, 1)


def _mirrored(span: Span, length: int) -> Span:
    return Span(
        length - span.stop, length - span.start, length - span.inner_stop, length - span.inner_start
    )
