"""A picture through a changed model: it has the size of the factor, and is that of its graph."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adadm.runtime import Upscaler, open_session
from adadm.runtime.errors import TilingError
from adadm.runtime.images.arrays import Pixels
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.upscaling.tile_plan import Tile
from fuzz.models import MODEL, same_graph
from fuzz.reader import REFUSALS, Fault, Files, write_files

_Seed = tuple[npt.NDArray[np.int64] | None, ModelMetadata]
_TILE_PX = 8


def upscale(backend: str, folder: Path, seed: Files) -> None:
    """Open each model of a case, and enlarge a picture with the whole one, in tiles if it has any.

    Raises:
        Fault: the picture is not that of the seed, whose graphs are the same.
    """
    for path in sorted(folder.glob("*.onnx")):
        open_session(path, backend, threads=1).close()
    found = _enlarged(backend, folder)
    metadata = read_onnx(folder / MODEL).metadata
    factor = metadata.upscale or 0
    if found.shape != (12 * factor, 14 * factor, 3):
        raise Fault(f"expected a picture enlarged by {factor}, got {found.shape}")
    files = {path.name: path.read_bytes() for path in folder.glob("*.onnx")}
    if files.keys() != seed.keys() or not all(same_graph(files[n], seed[n]) for n in files):
        return
    expected, known = _expected(backend, folder, seed)
    if metadata.rgb_range != known.rgb_range or metadata.smallest_area != known.smallest_area:
        return
    if expected is not None and np.abs(found.astype(int) - expected).max() > 1:
        raise Fault("the picture differs from that of the same graph")


_known: dict[tuple[str, frozenset[tuple[str, bytes]]], _Seed] = {}


def _expected(backend: str, folder: Path, seed: Files) -> _Seed:
    """What the seed gives: its picture, if it has one, and its metadata."""
    key = backend, frozenset(seed.items())
    if key not in _known:
        place = folder / "seed"
        write_files(place, seed)
        picture = None
        with suppress(*REFUSALS):
            picture = _enlarged(backend, place).astype(np.int64)
        _known[key] = picture, read_onnx(place / MODEL).metadata
    return _known[key]


def _enlarged(backend: str, folder: Path) -> Pixels:
    rows, columns = np.mgrid[:12, :14].astype(np.uint8)
    image = np.stack([8 * rows, 9 * columns, 60 + 5 * rows + 4 * columns], axis=2)
    tile: Tile = _TILE_PX if (folder / "model.tile.onnx").exists() else "auto"
    with Upscaler(
        folder / MODEL, backend=backend, threads=1, tile=tile, overlap=2, memory_gib=3.9
    ) as upscaler:
        if tile == _TILE_PX and upscaler.plan(12, 14).is_whole:
            raise TilingError("expected tiles")
        return upscaler.upscale(image)
