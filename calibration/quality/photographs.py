"""Photographs for calibrating and measuring a model.

Photographs are originals: each is reduced bicubically, as in the training of the network. A model
reads them in the geometry of its deployment, whole or as windows of one size. The modulators take
their statistics over the whole input, so that those of crops differ.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adadm.runtime.errors import CalibrationError, ImageError
from adadm.runtime.files import sha256_of
from adadm.runtime.images.arrays import (
    ImageArray,
    crop_to_multiple,
    find_images,
    read_image,
    reduce,
)
from adadm.runtime.progress import SILENT, Progress

SMALLEST_SIDE_PX = 16
"""Smallest side of an input: 8 px remain inside borders of 4 px, enough for a meaningful std."""

_UNUSABLE_SHARE = 0.1
_FOR_CALIBRATION = 2 / 3

FEWEST = 8
"""Different photographs below which ranges and losses say little about others."""

_BLOCKS = 8
_ALIKE_LEVELS = 2
"""Largest difference of two thumbnails of `_BLOCKS` squared for photographs to count as one."""


@dataclass(frozen=True)
class Photograph:
    """One original and its reduced image, which a network reads.

    Attributes:
        name: file name without its folder.
        sha256: digest of the file's bytes.
        hr: original (upscale * H, upscale * W, 3), uint8.
        lr: reduced image (H, W, 3), uint8.
    """

    name: str
    sha256: str
    hr: ImageArray
    lr: ImageArray


@dataclass(frozen=True)
class CalibrationImages:
    """Chosen photographs, made by `of`; decoded one at a time, anew at each iteration.

    Attributes:
        files: chosen files, by SHA-256 of their content.
        upscale: divisor of the size of originals, which are first cropped to a multiple of it.
        tile: height and width of the input, px: cut from the middle of each reduced photograph,
            with the matching part of the original; None for whole photographs.
        smallest_area: smallest H*W that the network accepts, px.
        found: number of different files found.
        sizes: H and W of each input, px.
        thumbnails: mean grey level of each block of each input.
        paths: files and folders to search, as given.
    """

    files: Mapping[str, Path]
    upscale: int
    tile: tuple[int, int] | None = None
    smallest_area: int = 1
    found: int = 0
    sizes: Sequence[tuple[int, int]] = ()
    thumbnails: Sequence[tuple[float, ...]] = ()
    paths: Sequence[Path] = ()

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        upscale: int,
        *,
        count: int = 32,
        tile: tuple[int, int] | None = None,
        smallest_area: int = 1,
        progress: Progress = SILENT,
    ) -> CalibrationImages:
        """Choose photographs by their content alone, decoding each once.

        The choice is the first `count` usable files in the order of their SHA-256, equal contents
        counted once. Neither names nor the order of `paths` matter. An unreadable or too small
        file is replaced by the next.

        Args:
            paths: image files, and folders that are searched recursively.
            progress: receives a message with path and reason for each file left out.

        Raises:
            ImageError: a path does not exist, or a folder holds no image.
            CalibrationError: no file is usable, more than a tenth of those tried are not, or a
                tile is smaller than the network accepts or than `SMALLEST_SIDE_PX`.
        """
        none_yet = cls({}, upscale, tile, smallest_area)
        if tile and (reason := none_yet._too_small(*tile)):
            raise CalibrationError(f"the tile is {reason}")
        if not paths:
            raise CalibrationError("no photographs were given; name files or folders of originals")
        candidates: dict[str, Path] = {}
        for path in sorted(find_images(list(paths)), key=lambda path: (path.name, path)):
            candidates.setdefault(_content(path), path)
        chosen: dict[str, Path] = {}
        unusable: list[str] = []
        sizes: list[tuple[int, int]] = []
        thumbnails: list[tuple[float, ...]] = []
        for sha256, path in sorted(candidates.items()):
            if len(chosen) == count:
                break
            try:
                lr = none_yet._read(path, sha256).lr
            except ImageError as error:
                unusable.append(str(error))
                progress.message(f"left out: {error}", warning=True)
                continue
            chosen[sha256] = path
            sizes.append(lr.shape[:2])
            thumbnails.append(_thumbnail(lr))
        tried = len(chosen) + len(unusable)
        if not chosen or len(unusable) > _UNUSABLE_SHARE * tried:
            listed = "".join(f"\n  {message}" for message in unusable)
            raise CalibrationError(
                f"{len(unusable)} of {tried} photographs are unusable; limit 10 %. Remove "
                f"them or give others:{listed}"
            )
        return replace(
            none_yet,
            files=chosen,
            found=len(candidates),
            sizes=sizes,
            thumbnails=thumbnails,
            paths=tuple(paths),
        )

    def split(self, least: int) -> tuple[CalibrationImages, CalibrationImages]:
        """Two thirds to calibrate, and the rest to measure; all for both if fewer than `least`."""
        if len(self) < least:
            return self, self
        cut = math.ceil(_FOR_CALIBRATION * len(self))
        return self._part(0, cut), self._part(cut, len(self))

    @property
    def different(self) -> int:
        """Number of photographs that differ from each other in more than noise."""
        kept: list[tuple[float, ...]] = []
        for one in self.thumbnails:
            if all(
                max(abs(a - b) for a, b in zip(one, other, strict=True)) > _ALIKE_LEVELS
                for other in kept
            ):
                kept.append(one)
        return len(kept)

    @property
    def too_few(self) -> str | None:
        """Warning if there are too few different photographs to calibrate on."""
        if self.different >= FEWEST:
            return None
        return (
            f"WARNING: {self.different} different of {len(self)} photographs: others may lose more "
            f"than is measured. Give {FEWEST} or more, like those that the model will process"
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the chosen contents, the factor and the geometry."""
        described = f"upscale {self.upscale}, tile {self.tile}, {' '.join(self.files)}"
        return hashlib.sha256(described.encode()).hexdigest()

    @property
    def names(self) -> list[str]:
        """File names of the chosen photographs."""
        return [path.name for path in self.files.values()]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Photograph]:
        for sha256, path in self.files.items():
            yield self._read(path, sha256)

    def __str__(self) -> str:
        heights, widths = zip(*self.sizes, strict=True)
        smallest, largest = (f"{pick(widths)}x{pick(heights)}" for pick in (min, max))
        geometry = "tiles from the middle" if self.tile else "whole"
        size = smallest if smallest == largest else f"{smallest} to {largest}"
        return f"{len(self)} of {self.found} photographs, {geometry}, reduced to {size} px"

    def _part(self, start: int, stop: int) -> CalibrationImages:
        files = dict(itertools.islice(self.files.items(), start, stop))
        return replace(
            self,
            files=files,
            sizes=self.sizes[start:stop],
            thumbnails=self.thumbnails[start:stop],
            paths=tuple(files.values()),
        )

    def _read(self, path: Path, sha256: str) -> Photograph:
        hr = read_image(path)
        height, width = (side // self.upscale for side in hr.shape[:2])
        if reason := self._too_small(height, width):
            raise ImageError(f"{path}: the reduced image is {reason}")
        hr = crop_to_multiple(hr, self.upscale)
        lr = reduce(hr, self.upscale)
        if self.tile:
            rows, columns = self.tile
            if rows > height or columns > width:
                raise ImageError(
                    f"{path}: the reduced image is {width}x{height} px, smaller than a tile of "
                    f"{columns}x{rows} px"
                )
            top, left = (height - rows) // 2, (width - columns) // 2
            hr, lr = (
                image[top * r : (top + rows) * r, left * r : (left + columns) * r].copy()
                for image, r in ((hr, self.upscale), (lr, 1))
            )
        return Photograph(path.name, sha256, hr, lr)

    def _too_small(self, height: int, width: int) -> str | None:
        if min(height, width) >= SMALLEST_SIDE_PX and height * width >= self.smallest_area:
            return None
        return (
            f"{width}x{height} px; required: sides of at least {SMALLEST_SIDE_PX} px and an area "
            f"of at least {self.smallest_area} px"
        )


def _thumbnail(lr: ImageArray) -> tuple[float, ...]:
    """Mean level of each of `_BLOCKS` x `_BLOCKS` blocks of an image."""
    rows = np.array_split(lr.mean(axis=2), _BLOCKS)
    return tuple(
        float(part.mean()) for row in rows for part in np.array_split(row, _BLOCKS, axis=1)
    )


def _content(path: Path) -> str:
    """SHA-256 of a file; the path of one that cannot be opened, so that it is tried and named."""
    try:
        return sha256_of(path)
    except OSError:
        return str(path)
