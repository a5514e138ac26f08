"""Upscale images of any size with one model, whole or in tiles that share their statistics.

from adadm.runtime import Upscaler

with Upscaler("x4") as upscaler:
    large = upscaler.upscale(image)  # uint8 (H, W, 3) to uint8 (4 H, 4 W, 3)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.runtime.errors import ImageError, SessionError, TilingError
from adadm.runtime.images.arrays import Pixels, batch_from_image, image_from_batch, to_integers
from adadm.runtime.images.pixel_source import (
    ArrayPixels,
    PaddedPixels,
    PixelSource,
    has_equal_channels,
)
from adadm.runtime.models.bundled import Variant, bundled_path
from adadm.runtime.progress import SILENT, Progress, StepCount
from adadm.runtime.upscaling.memory import HeightWidth, free_bytes, process_bytes
from adadm.runtime.upscaling.result_guard import find_fault
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
from adadm.runtime.upscaling.turns import TURNS, Array, Turn, TurnedPixels, mean_of_turns
from adadm.runtime.upscaling.variants import CPU_BACKENDS, TENSORS, ModelVariants
from adadm.runtime.upscaling.windows import Window

# Measured: padding takes two thirds of the error of 1x1 to 1x64 px, and nothing from 8 px on.
_SMALL_PX, _PADDED_PX = 8, 16


class Upscaler:
    """One model, opened once, for any number of images.

    Args:
        model: `x2`, `x3` or `x4` for a bundled model, or the path of an exported model or of an
            engine built from one. Tiles with more than one pass need the two models that `adadm
            export --stats external` writes beside it, or their engines.
        backend: as for `adadm.runtime.backends.open_session`.
        tile: side of a tile in input px, without its overlap; `off` for the whole image
            at once; `auto` for the whole image if it fits into memory, else the largest tile.
        passes: runs of each tile. With 1, each tile has its own statistic, as in other tools.
            With 2, the first pass collects the statistic of the image from the tiles. More
            passes make it more exact. `settle` repeats until it does not change, at most 12
            times. An image that is unlike a sample of it gets up to four more.
        overlap: overlap around each tile, px; by default what `accuracy` needs.
        accuracy: grey levels, of 255, by which settled tiles may differ from the whole image.
        threads: CPU threads; 0 leaves the number to the backend.
        memory_gib: total memory limit of the process on a CPU, GiB; by default what is free.
        self_ensemble: return the mean of the results for the eight turns of the image, in floating
            point, at eight times the work.
        accept: keep results that are not finite, or too far from their input, and report the first
            of an image to its `progress`; by default they are errors.
        may_time: as for `open_session`.

    Attributes:
        backend: name of the backend.
        timing: why `auto` chose it; None if it did not time.

    Raises:
        SessionError: the model cannot be loaded.
        TilingError: an option is out of range, or the model is not a whole model of `adadm export`
            for a single image.
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
        self_ensemble: bool = False,
        accept: bool = False,
        may_time: bool = True,
    ) -> None:
        _check_options(tile, passes, overlap, accuracy, memory_gib)
        self.model = bundled_path(model)
        self.tile, self.passes, self.accept = tile, passes, accept
        self.self_ensemble = self_ensemble
        self._memory_bytes = None if memory_gib is None else int(memory_gib * 2**30)
        self._bytes_before, self._largest_run_px = process_bytes(), 0
        self._variants = ModelVariants(
            self.model, backend, threads=threads, alone=tile == "auto", may_time=may_time
        )
        whole = self._variants.session("whole")
        self.metadata, self.backend, self.timing = whole.metadata, whole.backend, whole.timing
        if self.metadata.upscale is None or self.metadata.rgb_range is None:
            raise TilingError(
                f"{self.model} has no metadata of 'adadm export'; export the network with it"
            )
        if self.metadata.stats not in (None, "internal"):
            raise TilingError(
                f"{self.model} is one of the two models for tiles; give the whole model, without "
                ".tile or .moments in its name"
            )
        whole.expect(*TENSORS["whole"], self.model)
        self.upscale_factor = self.metadata.upscale
        self._rgb_range = self.metadata.rgb_range
        lr = whole.inputs[0]
        self._reads_images = lr.dtype == np.uint8
        self._white = 255.0 if self._reads_images else self._rgb_range
        self._sizes = whole.sizes
        if not self._sizes:
            raise TilingError(
                f"{self.model} takes {lr.shape[0] or 'several'} images at once, expected one; "
                "export it for one, or build a profile for one"
            )
        chosen, self._warning = choose_overlap(self.metadata, accuracy)
        self.overlap = chosen if overlap is None else overlap

    def upscale(self, image: Pixels, *, progress: Progress = SILENT) -> Pixels:
        """Upscale an array.

        Args:
            image: uint8 or uint16 (H, W, 3), RGB.
            progress: receives the finished windows, and a warning on a result that is accepted.

        Returns:
            (upscale * H, upscale * W, 3), of the same data type.

        Raises:
            ImageError: the array is not such an image.
            TilingError: the image needs tiles, and the model does not allow them.
            SessionError: the backend fails, or the result is not the image enlarged.
        """
        source, r, done = ArrayPixels(image), self.upscale_factor, 0
        result = np.empty((r * source.height, r * source.width, 3), source.dtype)
        for rows in self.rows(source, progress=progress):
            result[done : done + len(rows)] = rows
            done += len(rows)
        return result

    def plan(self, height: int, width: int, dtype: npt.DTypeLike = np.uint8) -> Plan:
        """Plan the windows of an image by its size.

        Raises:
            TilingError: the image needs tiles, and the model does not allow them.
        """
        memory = memory_model(self.metadata, self.backend)
        largest = None
        if memory is not None and self.backend in CPU_BACKENDS:
            itemsize = np.dtype(dtype).itemsize
            # A session keeps the memory of the last image and reuses it for the next.
            kept = memory.bytes_for(self._largest_run_px) if self._largest_run_px else 0
            held = min(max(process_bytes() - self._bytes_before, 0), kept)
            free = free_bytes(self._memory_bytes, held)
            capped = free < free_bytes(None, held)
            largest = LargestTile(memory, free, self.upscale_factor, itemsize, is_limited=capped)
        tiles = None if self.passes == 1 else partial(self._variants.tile_sizes, height, width)
        size, sizes = (height, width), self._sizes
        plan = make_plan(size, self.tile, self.overlap, largest, sizes=sizes, tile_sizes=tiles)
        return plan if plan.is_whole else replace(plan, warning=self._warning)

    def rows(
        self, source: PixelSource, plan: Plan | None = None, *, progress: Progress = SILENT
    ) -> Iterator[Pixels]:
        """Upscale an image of any size, a band of rows at a time.

        An image whose channels are equal stays grey. One with a side below 8 px is mirrored to 16
        px for the network, whose own padding would be most of it.

        Args:
            source: the image, read by regions once per pass, and once before.
            plan: result of `plan()`, if known already.
            progress: receives the finished windows, and a warning on a result that is accepted.

        Yields:
            Rows of the result from top to bottom, (h, upscale * W, 3) of the source's data type.

        Raises:
            ImageError, TilingError, SessionError: as for `upscale`.
        """
        if self._reads_images and source.dtype != np.uint8:
            raise ImageError(
                "expected an image of 8 bits, got 16, as those are read that are linear in light; "
                "export the model with --io float32"
            )
        plan = plan or self.plan(source.height, source.width, source.dtype)
        is_grey = has_equal_channels(source)
        for rows in self._padded_rows(source, plan, progress):
            if is_grey:
                rows[:] = to_integers(
                    rows.mean(axis=2, keepdims=True, dtype=np.float32), rows.dtype
                )
            yield rows

    def _padded_rows(self, source: PixelSource, plan: Plan, progress: Progress) -> Iterator[Pixels]:
        size = max(source.height, _PADDED_PX), max(source.width, _PADDED_PX)
        if min(source.height, source.width) >= _SMALL_PX or not self._takes(size):
            yield from self._run(source, plan, progress)
            return
        padded, r = PaddedPixels(source, _PADDED_PX), self.upscale_factor
        larger = self.plan(*size, padded.dtype)
        result = np.concatenate(list(self._run(padded, larger, progress)))
        result = result[r * padded.top :, r * padded.left : r * (padded.left + source.width)]
        for row in plan.windows:
            yield result[r * row[0][0].inner_start : r * row[0][0].inner_stop]

    def _run(self, source: PixelSource, plan: Plan, progress: Progress) -> Iterator[Pixels]:
        count = StepCount(progress, plan.count)
        self._largest_run_px = max(self._largest_run_px, math.prod(plan.shape))
        variant: Variant = "whole"
        turns = TURNS if self.self_ensemble else TURNS[:1]
        if self.self_ensemble and self._takes(plan.shape) and not self._takes(plan.shape[::-1]):
            raise TilingError(
                f"the self-ensemble turns the image: {self.model} takes {plan.shape[1]}x"
                f"{plan.shape[0]} px, but not {plan.shape[0]}x{plan.shape[1]}; export it without "
                "--static, or build it for both"
            )
        std: dict[Turn, npt.NDArray[np.float32]] = {}
        # The models for tiles may run, as one tile, a whole image that the model itself cannot.
        if self.passes != 1 and not (plan.is_whole and self._takes(plan.shape)):
            count.total += runs(plan, self.passes) * len(turns)
            for turn in turns:
                std[turn] = shared_std(
                    self._variants.session("moments"),
                    TurnedPixels(source, turn).colour,
                    to_input=self._input,
                    plan=turn.plan(plan),
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
        std: Mapping[Turn, npt.NDArray[np.float32]],
        count: StepCount,
    ) -> Pixels:
        r = self.upscale_factor
        height = r * windows[0][0].share
        result = np.empty((height, r * source.width, 3), source.dtype)
        session = self._variants.session(variant)  # each time: alpha may switch variants in between
        for rows, columns in windows:
            start = rows.start, columns.start

            def run(turn: Turn, lr: Array, start: HeightWidth = start) -> Array:
                feed = {"lr": lr} if not std else {"lr": lr, "std": std[turn]}
                sr = session.run(feed)["sr"]
                fault = find_fault(lr, sr, white=self._white, start=start)
                if fault and not self.accept:
                    raise SessionError(fault)
                count.warn(fault)
                # values that no integer has
                return np.clip(np.nan_to_num(sr), 0, self._white) if fault else sr

            lr = self._input(source.colour(*start, rows.length, columns.length))
            sr = mean_of_turns(run, lr) if self.self_ensemble else run(TURNS[0], lr)
            top, left, width = r * rows.inside.start, r * columns.inside.start, r * columns.share
            into = result[:, r * columns.inner_start : r * columns.inner_start + width]
            if self._reads_images:
                into[:] = sr[0, top : top + height, left : left + width]
            else:
                share = sr[:, :, top : top + height, left : left + width]
                into[:] = image_from_batch(share, self._rgb_range, source.dtype)
            count.one_more()
        return result

    def _takes(self, size: HeightWidth) -> bool:
        return any(taken.holds(size) for taken in self._sizes)

    def _input(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return image[None] if self._reads_images else batch_from_image(image, self._rgb_range)

    def close(self) -> None:
        """Free the models."""
        self._variants.close()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_options(
    tile: Tile, passes: Passes, overlap: int | None, accuracy: float, memory_gib: float | None
) -> None:
    if tile not in ("auto", "off") and not (isinstance(tile, int) and tile >= 1):
        raise TilingError(f"tile: expected auto, off, or a positive integer, px, got {tile!r}")
    if passes != "settle" and not (isinstance(passes, int) and passes >= 1):
        raise TilingError(f"passes: expected a positive integer or settle, got {passes!r}")
    if overlap is not None and overlap < 0:
        raise TilingError(f"overlap: expected 0 or more px, got {overlap}")
    if not accuracy > 0:
        raise TilingError(f"accuracy: expected a number of grey levels above 0, got {accuracy}")
    if memory_gib is not None and not 0 < memory_gib < math.inf:
        raise TilingError(f"memory: expected a number of GiB above 0, got {memory_gib}")
