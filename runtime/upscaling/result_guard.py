"""Comparison of each result with its input, so that no wrong picture is written in silence.

A network that diverges, was not trained or did not run returns numbers of the right shape too. A
result is therefore compared with what was fed to the network, in cells of the input:

    distance = RMS of (mean of the upscale x upscale pixels of the result - pixel of the input)
    bicubic  = the same for the result of bicubic interpolation
    limit    = max(bicubic, min(2 bicubic, 64)) + 12 + 144 / side^2      grey levels of 255

`side` is the shorter side of the input, px: networks pad with zeros, which is much of a small
image. The means of a bicubic result are a fixed filter of the input, so nothing is enlarged here.
Where the limit comes from: docs/explanation/result-guard.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from adadm.runtime.errors import SessionError

Values = npt.NDArray[np.float32]

_REMEDY = (
    "Reduce the contrast of the image, export the network with --limit auto, or give another "
    "model; --accept keeps such results"
)

_CELL_PX = 8
# A right result has more contrast than its image where that has room for it, up to here.
_OF_BICUBIC, _MOST_CONTRAST = 2.0, 64.0
MARGIN = 12.0
_SMALL = 144.0
# The bundled networks overshoot white three times at most. What lies far beyond is no overshoot;
# clipped, it would pass for white.
_LARGEST = 16.0
COMPARED_BYTES = 65
"""Memory that a comparison takes, at most, for each pixel of the input."""
_SAMPLED_ROWS = 8
_SAMPLED_FROM_PX = 64


@dataclass(frozen=True)
class Cell:
    """A part of the input, and how far the result is from it, in grey levels of 255.

    Attributes:
        row, column: its first row that is compared, and its first column.
    """

    row: int
    column: int
    distance: float
    bicubic: float
    limit: float


def find_fault(
    lr: npt.NDArray[Any],
    sr: npt.NDArray[Any],
    *,
    white: float,
    sampled: bool = False,
    start: tuple[int, int] = (0, 0),
) -> str:
    """Reason why a result is not its input enlarged; empty if it is.

    Args:
        lr: what was fed to the network, one image: uint8 (1, H, W, 3) or float32 (1, 3, H, W).
        sr: the result, of the same layout, upscale times as large.
        white: value of white.
        sampled: compare one row in eight, in cells of twice the side, if no side is below 64 px;
            for frames in real time.
        start: row and column of `lr` in the image, px.

    Raises:
        SessionError: the result is not upscale times as large as the input.
    """
    if sr.dtype != np.uint8:
        low, high = float(sr.min()), float(sr.max())
        if not (-_LARGEST * white <= low and high <= _LARGEST * white):  # true for NaN
            return (
                f"expected a result of 0 to {white:g}, got values from {low:g} to {high:g}. "
                f"{_REMEDY}"
            )
    cell = worst_cell(lr, sr, white=white, sampled=sampled)
    if cell.distance <= cell.limit:
        return ""
    return (
        f"expected a result within {cell.limit:.0f} of 255 grey levels of the image (bicubic "
        f"interpolation: {cell.bicubic:.0f}), got {cell.distance:.0f} at row "
        f"{start[0] + cell.row}, column {start[1] + cell.column}. {_REMEDY}"
    )


def worst_cell(
    lr: npt.NDArray[Any], sr: npt.NDArray[Any], *, white: float, sampled: bool = False
) -> Cell:
    """The cell that exceeds its limit by most, or is nearest to it.

    Args:
        lr, sr, white, sampled: as for `find_fault`; all values are finite.

    Raises:
        SessionError: as for `find_fault`.
    """
    to_planes = (2, 0, 1) if lr.dtype == np.uint8 else (0, 1, 2)
    small, large = lr[0].transpose(to_planes), sr[0].transpose(to_planes)
    height, width = small.shape[1:]
    upscale = large.shape[1] // height
    if large.shape != (3, upscale * height, upscale * width) or not upscale:
        raise SessionError(f"expected a multiple of {width}x{height} px, got {sr.shape}")
    sampled = sampled and min(height, width) >= _SAMPLED_FROM_PX
    step = _SAMPLED_ROWS if sampled else 1
    side = (2 if sampled else 1) * _CELL_PX
    rows = slice(min(step // 2, height - 1), height, step)
    squares = np.zeros((2, len(small[0, rows]), width), np.float32)
    for given, found in zip(small, large, strict=True):
        expected = given[rows].astype(np.float32)
        means = block_means(found, rows, upscale, white), bicubic_means(given, rows, upscale)
        for total, mean in zip(squares, means, strict=True):
            total += (mean - expected) ** 2
    tops, lefts = _starts(squares.shape[1], side // step), _starts(width, side)
    distance, bicubic = (
        np.sqrt(_cell_means(total / 3, tops, lefts)) * (255 / white) for total in squares
    )
    likely = np.maximum(bicubic, np.minimum(_OF_BICUBIC * bicubic, _MOST_CONTRAST))
    limit = likely + MARGIN + _SMALL / min(height, width) ** 2
    worst = np.unravel_index(np.argmax(distance - limit), limit.shape)
    row, column = rows.start + step * tops[worst[0]], lefts[worst[1]]
    figures = (float(levels[worst]) for levels in (distance, bicubic, limit))
    return Cell(int(row), int(column), *figures)


def block_means(plane: npt.NDArray[Any], rows: slice, upscale: int, white: float) -> Values:
    """Means of the upscale x upscale blocks of a result, clipped to 0..white.

    Args:
        plane: (upscale * H, upscale * W), uint8 or float32.
        rows: rows of blocks.

    Returns:
        (rows, W) of the chosen rows.
    """
    blocks = plane.reshape(-1, upscale, plane.shape[1])[rows]
    lines: Values = np.zeros((len(blocks), plane.shape[1]), np.float32)
    for line in range(upscale):
        part = blocks[:, line]
        lines += part if plane.dtype == np.uint8 else np.clip(part, 0, white)
    means = lines[:, ::upscale].copy()
    for column in range(1, upscale):
        means += lines[:, column::upscale]
    return means / np.float32(upscale**2)


def bicubic_means(plane: npt.NDArray[Any], rows: slice, upscale: int) -> Values:
    """Means of the blocks of a plane that bicubic interpolation enlarges, not clipped.

    Keys' cubic (a = -0.5) and symmetric padding, as in `adadm.runtime.images.arrays.enlarge`. Each
    mean is a sum over 5 x 5 pixels with the mean weights of the block's pixels.

    Args:
        plane: (H, W).
        rows: rows of the result.

    Returns:
        (rows, W) of the chosen rows.
    """
    offsets = (np.arange(upscale) + 0.5) / upscale - 0.5
    away = np.abs(np.arange(3)[:, None] - offsets)
    near, far = 1.5 * away**3 - 2.5 * away**2 + 1, -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
    weights = np.where(away <= 1, near, np.where(away < 2, far, 0)).mean(axis=1)
    middle, beside, outside = weights.astype(np.float32)
    around = sliding_window_view(_mirrored(plane.shape[0]), 5)[rows].T
    lines = [plane[shifted].astype(np.float32) for shifted in around]
    mixed = middle * lines[2] + beside * (lines[1] + lines[3]) + outside * (lines[0] + lines[4])
    wide = mixed[:, _mirrored(plane.shape[1])]
    means: Values = (
        middle * wide[:, 2:-2]
        + beside * (wide[:, 1:-3] + wide[:, 3:-1])
        + outside * (wide[:, :-4] + wide[:, 4:])
    )
    return means


def _mirrored(length: int) -> npt.NDArray[np.int_]:
    """Indices -2..length+1 of an axis that is repeated in a mirror at its ends."""
    index = np.arange(-2, length + 2) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


def _starts(length: int, cell: int) -> npt.NDArray[np.int_]:
    """Starts of cells along an axis; the last cell takes the rest."""
    return np.arange(0, max(1, length - cell + 1), cell)


def _cell_means(
    values: Values, tops: npt.NDArray[np.int_], lefts: npt.NDArray[np.int_]
) -> npt.NDArray[np.float64]:
    sums = np.add.reduceat(np.add.reduceat(values, tops, axis=0), lefts, axis=1)
    heights = np.diff(tops, append=values.shape[0])
    return np.asarray(sums / np.outer(heights, np.diff(lefts, append=values.shape[1])))
