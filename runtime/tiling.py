"""Which windows of an image are run, and why: memory, overlap, and what that costs in accuracy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from adadm.runtime.errors import TilingError
from adadm.runtime.memory import MemoryModel, memory_models
from adadm.runtime.windows import Window, grid

__all__ = ["DEFAULT_ACCURACY", "LargestTile", "Plan", "Tile", "choose_overlap", "make_plan"]

Tile = int | Literal["auto", "off"]

DEFAULT_ACCURACY = 0.01
"""Grey levels, of 255, that tiles may be off from the whole image once the factors have settled."""

_SAFETY = 4  # other photographs than those that export measured
_FALLBACK_OVERLAP = 32
_STEP = 32
_SURELY_FITS_PX, _TILE_WHERE_UNKNOWN_PX = 1_000_000, 512
_SHARE_OF_FREE = 0.8
_ROWS_AT_ONCE = 3  # one being filled, one waiting, one being encoded


@dataclass(frozen=True)
class Plan:
    """How one image is run.

    Attributes:
        windows: row by row; one alone is the whole image.
        overlap: px of `lr` around each window's share.
        reason: why so, in a few words.
        warning: what the result loses by it, if anything.
    """

    windows: list[list[Window]]
    overlap: int
    reason: str
    warning: str = ""

    @property
    def is_whole(self) -> bool:
        return len(self.windows) == len(self.windows[0]) == 1

    @property
    def count(self) -> int:
        """How many windows there are."""
        return len(self.windows) * len(self.windows[0])

    @property
    def shape(self) -> tuple[int, int]:
        """H and W of each window, px of `lr`."""
        row, column = self.windows[0][0]
        return row.length, column.length

    def __str__(self) -> str:
        height, width = self.shape
        if self.is_whole:
            return f"the whole image: {self.reason}"
        columns = len(self.windows[0])
        return (
            f"{len(self.windows)} x {columns} windows of {width}x{height} px, which overlap by "
            f"{self.overlap} px on each side: {self.reason}"
        )


def choose_overlap(metadata: Mapping[str, str], accuracy: float) -> tuple[int, str]:
    """The overlap that keeps settled tiles within `accuracy`, and a warning if none does.

    Args:
        metadata: of the model. `adadm.halo_errors` lists what the largest error on photographs was
            at each overlap, in grey levels; `adadm.receptive_field` bounds what can matter.
    """
    reach = metadata.get("adadm.receptive_field", "image")
    measured = [
        (int(px), float(levels))
        for px, levels in json.loads(metadata.get("adadm.halo_errors", "[]"))
    ]
    enough = [px for px, levels in measured if levels * _SAFETY <= accuracy]
    if enough:
        return min(enough), ""
    if reach != "image":
        return int(reach), ""
    overlap = _FALLBACK_OVERLAP
    beyond = [levels for px, levels in measured if px >= overlap]
    by = f"was off by up to {max(beyond):.2g} grey levels" if beyond else "was not measured"
    return overlap, (
        "this network looks at the whole image (attention, or a statistic that is no modulator's), "
        f"so tiles differ from it: on photographs, when exported, an overlap of {overlap} px {by}"
    )


@dataclass(frozen=True)
class LargestTile:
    """What bounds a window: the memory that is free, and what each of its pixels takes."""

    memory: MemoryModel
    free_bytes: int
    upscale: int
    bytes_per_value: int

    def fits(self, window: tuple[int, int], share: int, width: int) -> bool:
        """Whether a window, and the rows of the result that wait for the encoder, fit.

        Args:
            window: H and W, px of `lr`.
            share: how many rows of `lr` are finished at once.
            width: of the image, px of `lr`.
        """
        rows = _ROWS_AT_ONCE * 3 * self.bytes_per_value * share * width * self.upscale**2
        return self.memory.bytes_for(math.prod(window)) + rows <= _SHARE_OF_FREE * self.free_bytes


def memory_model(metadata: Mapping[str, str], backend: str) -> MemoryModel | None:
    """The memory of a backend as export measured it, or of the hungriest one it did measure."""
    models = memory_models(metadata.get("adadm.memory", "{}"))
    if backend in models:
        return models[backend]
    return max(models.values(), key=lambda model: model.bytes_per_pixel, default=None)


def make_plan(
    size: tuple[int, int],
    tile: Tile,
    overlap: int,
    largest: LargestTile | None,
    fixed: tuple[int, int] | None = None,
) -> Plan:
    """Choose the windows of an image.

    Args:
        size: H and W, px.
        tile: the side of a window without its overlap, or `off`, or `auto` for the whole image if
            it fits, else the largest tile that does.
        overlap: px on each side.
        largest: what fits; None where that is unknown.
        fixed: H and W of a model whose sizes are fixed; it sets the windows.

    Raises:
        TilingError: a fixed size is too small for the overlap, larger than the image, or not that
            of the image where tiles are off.
    """
    if fixed is not None and tile == "off" and size != fixed:
        raise TilingError(
            f"the model takes {fixed[1]}x{fixed[0]} px and nothing else (--static), the image has "
            f"{size[1]}x{size[0]}, and tiles are off"
        )
    if fixed is not None:
        return _fixed_plan(size, overlap, fixed)
    height, width = size
    if tile == "off":
        return Plan(grid(height, width, size, 0), 0, "asked for")
    if tile != "auto":
        return _tiled(size, tile, overlap, f"tiles of {tile} px were asked for")
    if largest is None:
        unknown = "how much memory it takes is unknown"
        if height * width <= _SURELY_FITS_PX:
            return Plan(grid(height, width, size, 0), 0, f"it is small, and {unknown}")
        return _tiled(size, _TILE_WHERE_UNKNOWN_PX, overlap, unknown)
    free = f"{largest.free_bytes / 2**30:.1f} GiB are free"
    if largest.fits(size, height, width):
        return Plan(grid(height, width, size, 0), 0, f"it fits, {free}")
    side = max(size)
    while side > _STEP:
        side = -(-side // _STEP) * _STEP - _STEP
        window = (min(height, side + 2 * overlap), min(width, side + 2 * overlap))
        if largest.fits(window, min(height, side + overlap), width):
            return _tiled(size, side, overlap, f"the largest tile that fits, {free}")
    return _tiled(size, side, overlap, f"no tile is sure to fit, {free}")


def _tiled(size: tuple[int, int], side: int, overlap: int, reason: str) -> Plan:
    height, width = size
    window = side + 2 * overlap
    windows = grid(height, width, (window, window), overlap)
    if len(windows) == len(windows[0]) == 1:
        return Plan(windows, 0, "it is no larger than one tile")
    return Plan(windows, overlap, reason)


def _fixed_plan(size: tuple[int, int], overlap: int, fixed: tuple[int, int]) -> Plan:
    shape = f"the model takes {fixed[1]}x{fixed[0]} px and nothing else (--static)"
    if size == fixed:
        return Plan(grid(*size, fixed, 0), 0, shape)
    if size[0] < fixed[0] or size[1] < fixed[1]:
        raise TilingError(
            f"{shape}, the image has {size[1]}x{size[0]}; export without --static, or a size that "
            "is not larger than the image"
        )
    tight = [f for f, s in zip(fixed, size, strict=True) if f < s and f <= 2 * overlap]
    if tight:
        raise TilingError(
            f"{shape}, which leaves nothing within an overlap of {overlap} px on each side; give a "
            f"smaller --overlap, or export a size above {2 * overlap} px"
        )
    return Plan(grid(*size, fixed, overlap), overlap, shape)
