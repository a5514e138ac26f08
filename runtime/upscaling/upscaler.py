"""Upscaling images of any size with one model, whole or in tiles that share their statistics.

from adadm.runtime import Upscaler

with Upscaler("x4") as upscaler:
    large = upscaler.upscale(image)  # uint8 (H, W, 3) to uint8 (4 H, 4 W, 3)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.runtime.errors import ImageError, SessionError, TilingError
from adadm.runtime.images.arrays import Pixels, batch_from_image, image_from_batch
from adadm.runtime.images.pixel_source import ArrayPixels, PixelSource
from adadm.runtime.models.bundled import Variant, bundled_path
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.upscaling.memory import free_bytes, process_bytes
from adadm.runtime.upscaling.shared_std import Passes, runs, shared_std
from adadm.runtime.upscaling.tile_plan import (
    DEFAULT_ACCURACY,
    LargestTile,
    Plan,
    Tile,
    choose_overlap,
    make_plan,
    memory_model,
)
from adadm.runtime.upscaling.variants import CPU_BACKENDS, ModelVariants
from adadm.runtime.upscaling.windows import Window


class Upscaler:
    """One model, opened once, for any number of images.

    Args:
        model: `x2` or `x4` for a bundled model, or the path of an exported one, or of an engine
            that was built of it. Tiles with more than one pass need the two models that `adadm
            export --stats external` writes beside, or their engines.
        backend: as `adadm.runtime.backends.open_session` takes it.
        tile: the side of a tile in px of the input, without its overlap; `off` for the whole image
            at once; `auto` for the whole image if it fits into memory, else the largest tile.
        passes: how often each tile is run. 1 gives each tile a statistic of its own, as other tools
            do; with 2, the first pass collects the statistic of the image from the tiles; more
            make it more exact, and `settle` goes on until it does not change, for at most 12. An
            image that is unlike a sample of it gets up to four more.
        overlap: px around each tile; by default what `accuracy` needs.
        accuracy: grey levels, of 255, by which settled tiles may differ from the whole image.
        threads: of the CPU; 0 leaves it to the backend.
        memory_gib: what the process may take in all, on a CPU; by default what is free.

    Raises:
        SessionError: the model cannot be loaded.
        TilingError: an option makes no sense.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "x2",
        *,
        backend: str = "auto",
        tile: Tile = "auto",
        passes: Passes = 2,
        overlap: int | None = None,
        accuracy: float = DEFAULT_ACCURACY,
        threads: int = 0,
        memory_gib: float | None = None,
    ) -> None:
        _check_options(tile, passes, overlap, accuracy, memory_gib)
        self.model = bundled_path(model)
        self.tile, self.passes = tile, passes
        self._memory_bytes = None if memory_gib is None else int(memory_gib * 2**30)
        self._bytes_before, self._largest_run_px = process_bytes(), 0
        self._variants = ModelVariants(self.model, backend, threads=threads, alone=tile == "auto")
        whole = self._variants.session("whole")
        self.metadata, self.backend = whole.metadata, whole.backend
        if self.metadata.upscale is None or self.metadata.rgb_range is None:
            raise TilingError(
                f"{self.model} was not made by adadm export: it has no metadata of it"
            )
        if self.metadata.stats not in (None, "internal"):
            raise TilingError(
                f"{self.model} is one of the two models for tiles; give the model that they belong "
                "to, without .tile or .moments in its name"
            )
        self.upscale_factor = self.metadata.upscale
        self._rgb_range = self.metadata.rgb_range
        lr = whole.inputs[0]
        self._reads_images = lr.dtype == np.uint8
        self._sizes = whole.sizes
        if not self._sizes:
            raise TilingError(
                f"{self.model} takes {lr.shape[0] or 'several'} images at once; export it for one, "
                "or build a profile for one"
            )
        chosen, self._warning = choose_overlap(self.metadata, accuracy)
        self.overlap = chosen if overlap is None else overlap

    def upscale(self, image: Pixels, *, progress: Progress = SILENT) -> Pixels:
        """Upscale an array.

        Args:
            image: uint8 or uint16 (H, W, 3), RGB.
            progress: told the windows that are done.

        Returns:
            (upscale * H, upscale * W, 3), of the same data type.

        Raises:
            ImageError: the array is no such image.
            TilingError: it must be tiled, and the model cannot be.
            SessionError: the backend fails.
        """
        source, r, done = ArrayPixels(image), self.upscale_factor, 0
        result = np.empty((r * source.height, r * source.width, 3), source.dtype)
        for rows in self.rows(source, progress=progress):
            result[done : done + len(rows)] = rows
            done += len(rows)
        return result

    def plan(self, height: int, width: int, dtype: npt.DTypeLike = np.uint8) -> Plan:
        """How an image of a size is run.

        Raises:
            TilingError: it must be tiled, and the model cannot be.
        """
        memory = memory_model(self.metadata, self.backend)
        largest = None
        if memory is not None and self.backend in CPU_BACKENDS:
            itemsize = np.dtype(dtype).itemsize
            # A session keeps what it took for the last image, and takes it for the next.
            kept = memory.bytes_for(self._largest_run_px) if self._largest_run_px else 0
            held = min(max(process_bytes() - self._bytes_before, 0), kept)
            free = free_bytes(self._memory_bytes, held)
            largest = LargestTile(memory, free, self.upscale_factor, itemsize)
        tiles = None if self.passes == 1 else partial(self._variants.tile_sizes, height, width)
        size, sizes = (height, width), self._sizes
        plan = make_plan(size, self.tile, self.overlap, largest, sizes=sizes, tile_sizes=tiles)
        return plan if plan.is_whole else replace(plan, warning=self._warning)

    def rows(
        self, source: PixelSource, plan: Plan | None = None, *, progress: Progress = SILENT
    ) -> Iterator[Pixels]:
        """Upscale an image of any size, some of its rows at a time.

        Args:
            source: read by regions, once in each pass.
            plan: from `plan()`, where it is known already.
            progress: told the windows that are done.

        Yields:
            Rows of the result from top to bottom, (h, upscale * W, 3) of the source's data type.
        """
        if self._reads_images and source.dtype != np.uint8:
            raise ImageError(
                "the image has 16 bits and the model takes 8; export with --io float32"
            )
        plan = plan or self.plan(source.height, source.width, source.dtype)
        count = _Count(progress, plan.count)
        self._largest_run_px = max(self._largest_run_px, math.prod(plan.shape))
        variant: Variant = "whole"
        std = None
        # A whole image that the model itself cannot run, those for tiles may, as one tile.
        takes = any(taken.holds(plan.shape) for taken in self._sizes)
        if self.passes != 1 and not (plan.is_whole and takes):
            count.total += runs(plan, self.passes)
            std = shared_std(
                self._variants.session("moments"),
                source.colour,
                to_input=self._input,
                plan=plan,
                passes=self.passes,
                on_run=count.one_more,
            )
            variant = "tile"
            count.total = count.done + plan.count
        for row in plan.windows:
            yield self._row(variant, source, row, std, count)

    def _row(
        self,
        variant: Variant,
        source: PixelSource,
        windows: list[Window],
        std: npt.NDArray[np.float32] | None,
        count: _Count,
    ) -> Pixels:
        r = self.upscale_factor
        height = r * windows[0][0].share
        result = np.empty((height, r * source.width, 3), source.dtype)
        session = self._variants.session(variant)  # each time: alpha may ask for another between
        for rows, columns in windows:
            image = source.colour(rows.start, columns.start, rows.length, columns.length)
            feed = {"lr": self._input(image)}
            if std is not None:
                feed["std"] = std
            sr = session.run(feed)["sr"]
            top, left, width = r * rows.inside.start, r * columns.inside.start, r * columns.share
            into = result[:, r * columns.inner_start : r * columns.inner_start + width]
            if self._reads_images:
                into[:] = sr[0, top : top + height, left : left + width]
            else:
                share = sr[:, :, top : top + height, left : left + width]
                if np.isnan(share.min()):
                    raise SessionError("the network diverges on this image, to no number at all")
                into[:] = image_from_batch(share, self._rgb_range, source.dtype)
            count.one_more()
        return result

    def _input(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return image[None] if self._reads_images else batch_from_image(image, self._rgb_range)

    def close(self) -> None:
        """Free the models."""
        self._variants.close()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Count:
    """Counts the windows that are done."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def one_more(self) -> None:
        self.done += 1
        self.total = max(self.total, self.done)
        self.progress.advance(self.done, self.total)


def _check_options(
    tile: Tile, passes: Passes, overlap: int | None, accuracy: float, memory_gib: float | None
) -> None:
    if tile not in ("auto", "off") and not (isinstance(tile, int) and tile >= 1):
        raise TilingError(f"tile is {tile!r}, expected auto, off, or a number of pixels from 1 on")
    if passes != "settle" and not (isinstance(passes, int) and passes >= 1):
        raise TilingError(f"passes is {passes!r}, expected a number from 1 on, or settle")
    if overlap is not None and overlap < 0:
        raise TilingError(f"overlap is {overlap}, expected 0 or more")
    if not accuracy > 0:
        raise TilingError(f"accuracy is {accuracy}, expected a number of grey levels above 0")
    if memory_gib is not None and not 0 < memory_gib < math.inf:
        raise TilingError(f"memory is {memory_gib}, expected a number of GiB above 0")
