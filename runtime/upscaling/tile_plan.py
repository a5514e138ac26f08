"""Choose the windows of an image, by memory, overlap and accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from adadm.runtime.errors import TilingError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.sessions.session import SizeRange
from adadm.runtime.upscaling.memory import HeightWidth, MemoryModel, memory_models
from adadm.runtime.upscaling.result_guard import COMPARED_BYTES
from adadm.runtime.upscaling.windows import Window, grid

Tile = int | Literal["auto", "off"]

DEFAULT_ACCURACY = 0.01
"""Largest error of settled tiles against the whole image, in grey levels of 255."""

_SAFETY = 4  # for photographs unlike those that export measured
_FALLBACK_OVERLAP = 32
_STEP = 32
_SURELY_FITS_PX, _TILE_WHERE_UNKNOWN_PX = 1_000_000, 512
_SHARE_OF_FREE = 0.8
_ROWS_AT_ONCE = 3  # one being filled, one waiting, one being encoded


@dataclass(frozen=True)
class Plan:
    """The windows that one image is run in.

    Attributes:
        windows: windows by row; a single one is the whole image.
        overlap: overlap around each window's share, px of `lr`.
        reason: reason for the choice, in a few words.
        warning: loss of quality by tiling; empty if there is none.
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
        """Number of windows."""
        return len(self.windows) * len(self.windows[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of each window, px of `lr`."""
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


def choose_overlap(metadata: ModelMetadata, accuracy: float) -> tuple[int, str]:
    """Overlap that keeps settled tiles within `accuracy`, and a warning if none does."""
    measured = metadata.halo_errors or []
    enough = [px for px, levels in measured if levels * _SAFETY <= accuracy]
    if enough:
        return min(enough), ""
    if metadata.reach is not None:
        return metadata.reach, ""
    overlap = _FALLBACK_OVERLAP
    beyond = [levels for px, levels in measured if px >= overlap]
    by = f"was off by up to {max(beyond):.2g} grey levels" if beyond else "was not measured"
    return overlap, (
        "this network looks at the whole image (attention, or a statistic that is no modulator's), "
        f"so tiles differ from it: on photographs, when exported, an overlap of {overlap} px {by}"
    )


@dataclass(frozen=True)
class LargestTile:
    """Limit of a window by memory: what is free, and what each pixel takes.

    Attributes:
        is_limited: True if less is free by a limit of the process than on the machine.
    """

    memory: MemoryModel
    free_bytes: int
    upscale: int
    bytes_per_value: int
    is_limited: bool = False

    def fits(self, window: tuple[int, int], share: int, width: int) -> bool:
        """True if a window and the result rows that wait for the encoder fit.

        Args:
            window: H and W, px of `lr`.
            share: rows of `lr` that are finished at once.
            width: image width, px of `lr`.
        """
        rows = _ROWS_AT_ONCE * 3 * self.bytes_per_value * share * width * self.upscale**2
        pixels = math.prod(window)
        run = self.memory.bytes_for(pixels) + COMPARED_BYTES * pixels
        return run + rows <= _SHARE_OF_FREE * self.free_bytes


def memory_model(metadata: ModelMetadata, backend: str) -> MemoryModel | None:
    """Memory model of a backend as export measured it, else of the hungriest measured one."""
    models = memory_models(metadata)
    if backend in models:
        return models[backend]
    return max(models.values(), key=lambda model: model.bytes_per_pixel, default=None)


def make_plan(
    size: HeightWidth,
    tile: Tile,
    overlap: int,
    largest: LargestTile | None,
    *,
    sizes: Sequence[SizeRange] = (SizeRange(),),
    tile_sizes: Callable[[], Sequence[SizeRange]] | None = None,
) -> Plan:
    """Choose the windows of an image.

    Args:
        size: H and W, px.
        tile: side of a window without its overlap, px; or `off`; or `auto` for the whole image if
            it fits, else the largest tile that does.
        overlap: overlap on each side, px.
        largest: limit by memory; None if unknown.
        sizes: sizes that the model takes. A bounded range decides instead of the memory, which
            was planned for it; a single size overrides `tile` too.
        tile_sizes: returns the sizes that the models for tiles take, called only if tiles are
            needed; by default `sizes`.

    Raises:
        TilingError: no window has a size that the model takes: the image is too small, the
            required tile is out of range, or the largest window is all overlap.
    """
    held = next((taken for taken in sizes if taken.holds(size)), None)
    if tile == "off":
        if held is None:
            raise TilingError(
                f"the model takes {_listed(sizes)}, the image has {_width_x_height(size)}, and "
                "tiles are off; allow them: --tile auto"
            )
        return _whole(size, "tiles are off")
    if held and held.is_bounded and (tile == "auto" or held.is_fixed):
        return _whole(size, f"the model takes {_listed([held])}")
    if tile == "auto":
        limit, reason = _affordable_side(size, overlap, largest, sizes)
        if held and limit is None:
            return _whole(size, reason)
        side = limit or max(size)
    else:
        side, reason = tile, f"tiles of {tile} px are required"
    if held and side + 2 * overlap >= max(size):
        return _whole(size, "it is no larger than one tile")
    takes = "the model takes"
    if tile_sizes is not None:
        takes, sizes = "tiles of the model take", tile_sizes()
    wanted = (min(size[0], side + 2 * overlap), min(size[1], side + 2 * overlap))
    plans = []
    for taken in sizes:
        decides = taken.is_fixed or (tile == "auto" and taken.is_bounded)
        window = taken.nearest(wanted) if decides or tile == "auto" else wanted
        if taken.holds(window) and all(
            part == length or 2 * overlap < part < length
            for part, length in zip(window, size, strict=True)
        ):
            why = f"{takes} {_listed([taken])}" if decides else reason
            plans.append(Plan(grid(*size, window, overlap), overlap, why))
    if not plans:
        why_not = _why_no_window(size, tile, wanted, overlap, sizes)
        raise TilingError(f"{takes} {_listed(sizes)}, {why_not}")
    return min(plans, key=lambda plan: plan.count * math.prod(plan.shape))


def common_sizes(first: Sequence[SizeRange], second: Sequence[SizeRange]) -> list[SizeRange]:
    """Sizes that both of two models take."""
    pairs = ((left, right) for left in first for right in second)
    shared = [
        SizeRange(
            (max(left.least[0], right.least[0]), max(left.least[1], right.least[1])),
            (min(left.most[0], right.most[0]), min(left.most[1], right.most[1])),
        )
        for left, right in pairs
    ]
    return [taken for taken in shared if taken.holds(taken.most)]


def _affordable_side(
    size: HeightWidth, overlap: int, largest: LargestTile | None, sizes: Sequence[SizeRange]
) -> tuple[int | None, str]:
    """Side of the largest tile that fits into memory, None if the image fits; and the reason."""
    height, width = size
    if largest is None:
        unknown = "its memory need is unknown"
        if all(taken.is_bounded for taken in sizes):
            return None, unknown
        if height * width <= _SURELY_FITS_PX:
            return None, f"it is small, and {unknown}"
        return _TILE_WHERE_UNKNOWN_PX, unknown
    where = "left of the memory limit" if largest.is_limited else "free"
    free = f"{largest.free_bytes / 2**30:.1f} GiB are {where}"
    if largest.fits(size, height, width):
        return None, f"it fits, {free}"
    side = max(size)
    while side > _STEP:
        side = -(-side // _STEP) * _STEP - _STEP
        window = (min(height, side + 2 * overlap), min(width, side + 2 * overlap))
        if largest.fits(window, min(height, side + overlap), width):
            return side, f"the largest tile that fits, {free}"
    return side, f"no tile fits for certain, {free}"


def _whole(size: HeightWidth, reason: str) -> Plan:
    return Plan(grid(*size, size, 0), 0, reason)


def _why_no_window(
    size: HeightWidth, tile: Tile, wanted: HeightWidth, overlap: int, sizes: Sequence[SizeRange]
) -> str:
    if not any(taken.least[0] <= size[0] and taken.least[1] <= size[1] for taken in sizes):
        return (
            f"the image has {_width_x_height(size)}; export without --static, or build for sizes "
            "no larger than the image (--min)"
        )
    if tile != "auto" and not all(taken.is_fixed for taken in sizes):
        return (
            f"and tiles of {tile} px with an overlap of {overlap} px on each side are windows of "
            f"{_width_x_height(wanted)} px; give another --tile, or build for that size"
        )
    return (
        f"which leaves nothing within an overlap of {overlap} px on each side; give a smaller "
        f"--overlap, or build or export a size above {2 * overlap} px"
    )


def _listed(sizes: Sequence[SizeRange]) -> str:
    only = " and nothing else" if all(taken.is_fixed for taken in sizes) else ""
    return " or ".join(map(str, sizes)) + only


def _width_x_height(size: HeightWidth) -> str:
    return f"{size[1]}x{size[0]}"
