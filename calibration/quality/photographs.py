"""The photographs that a model is calibrated and measured on.

They are originals: each is reduced bicubically, as in the training of the network. A model sees
them in the geometry in which it is deployed, whole or as windows of one size, because the
modulators take their statistics over the whole input: those of crops differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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

__all__ = ["SMALLEST_SIDE_PX", "CalibrationImages", "Photograph"]

SMALLEST_SIDE_PX = 16
"""Of an input: a border of 4 px on each side leaves as much inside, and its std means something."""

_UNUSABLE_SHARE = 0.1


@dataclass(frozen=True)
class Photograph:
    """One original and what a network reads of it.

    Attributes:
        name: of the file, without its folder.
        sha256: of the file's bytes.
        hr: the original (upscale * H, upscale * W, 3), uint8.
        lr: reduced (H, W, 3), uint8.
    """

    name: str
    sha256: str
    hr: ImageArray
    lr: ImageArray


class CalibrationImages:
    """A choice of photographs that depends on their contents alone.

    Of all files, each content counted once, the first `count` usable ones in the order of their
    SHA-256: neither names nor the order of `paths` matter. One that is unreadable or too small
    gives way to the next. Every chosen file is decoded once here, and again at each iteration; no
    more than one is held.

    Args:
        paths: image files, and folders that are searched recursively.
        upscale: by which originals are reduced, cropped to a multiple of it first.
        tile: height and width in px of the input: the middle of each reduced photograph, and
            what belongs to it of the original; None for whole photographs.
        smallest_area: the least H*W that the network takes, px.
        progress: told each file that gave way, with its path and the reason.

    Attributes:
        found: how many different files there are.
        digest: SHA-256 of the chosen contents, the factor and the geometry.

    Raises:
        ImageError: a path does not exist, or a folder holds no image.
        CalibrationError: no file is usable, more than a tenth of those tried are not, or a tile
            is smaller than a network takes or than `SMALLEST_SIDE_PX`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        upscale: int,
        count: int = 32,
        tile: tuple[int, int] | None = None,
        smallest_area: int = 1,
        *,
        progress: Progress = SILENT,
    ) -> None:
        self._upscale, self._tile, self._smallest_area = upscale, tile, smallest_area
        if tile and (reason := self._too_small(*tile)):
            raise CalibrationError(f"a tile is {reason}")
        if not paths:
            raise CalibrationError("no photographs were given; name files or folders of originals")
        candidates: dict[str, Path] = {}
        for path in sorted(find_images(list(paths)), key=lambda path: (path.name, path)):
            candidates.setdefault(_content(path), path)
        self.found = len(candidates)
        unusable: list[str] = []
        self._chosen: dict[str, Path] = {}
        sizes: list[tuple[int, int]] = []
        for sha256, path in sorted(candidates.items()):
            if len(self._chosen) == count:
                break
            try:
                lr = self._read(path, sha256).lr
            except ImageError as error:
                unusable.append(str(error))
                progress.message(f"left out: {error}", warning=True)
                continue
            self._chosen[sha256] = path
            sizes.append((lr.shape[1], lr.shape[0]))
        tried = len(self._chosen) + len(unusable)
        if not self._chosen or len(unusable) > _UNUSABLE_SHARE * tried:
            listed = "".join(f"\n  {message}" for message in unusable)
            raise CalibrationError(
                f"{len(unusable)} of {tried} photographs are unusable, at most a tenth may "
                f"be; remove them or give others:{listed}"
            )
        self._sizes = [
            tuple(pick(side) for side in zip(*sizes, strict=True)) for pick in (min, max)
        ]
        described = f"upscale {upscale}, tile {tile}, {' '.join(self._chosen)}"
        self.digest = hashlib.sha256(described.encode()).hexdigest()

    @property
    def files(self) -> dict[str, Path]:
        """What was chosen, by SHA-256 of its content."""
        return dict(self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Photograph]:
        for sha256, path in self._chosen.items():
            yield self._read(path, sha256)

    def __str__(self) -> str:
        smallest, largest = (f"{width}x{height}" for width, height in self._sizes)
        geometry = "tiles from the middle" if self._tile else "whole"
        size = smallest if smallest == largest else f"{smallest} to {largest}"
        return f"{len(self)} of {self.found} photographs, {geometry}, reduced to {size} px"

    def _read(self, path: Path, sha256: str) -> Photograph:
        hr = read_image(path)
        height, width = (side // self._upscale for side in hr.shape[:2])
        if reason := self._too_small(height, width):
            raise ImageError(f"{path}: reduced it is {reason}")
        hr = crop_to_multiple(hr, self._upscale)
        lr = reduce(hr, self._upscale)
        if self._tile:
            rows, columns = self._tile
            if rows > height or columns > width:
                raise ImageError(
                    f"{path}: reduced it is {width}x{height} px, smaller than a tile of "
                    f"{columns}x{rows} px"
                )
            top, left = (height - rows) // 2, (width - columns) // 2
            hr, lr = (
                image[top * r : (top + rows) * r, left * r : (left + columns) * r].copy()
                for image, r in ((hr, self._upscale), (lr, 1))
            )
        return Photograph(path.name, sha256, hr, lr)

    def _too_small(self, height: int, width: int) -> str | None:
        if min(height, width) >= SMALLEST_SIDE_PX and height * width >= self._smallest_area:
            return None
        return (
            f"{width}x{height} px, needed are sides of {SMALLEST_SIDE_PX} px or more and "
            f"{self._smallest_area} px or more in all"
        )


def _content(path: Path) -> str:
    """SHA-256 of a file; of what cannot be opened the path, for it to be tried and named."""
    try:
        return sha256_of(path)
    except OSError:
        return str(path)
