"""Photographs from scikit-image: no download, and no files of our own."""

from __future__ import annotations

from adadm.runtime.errors import require
from adadm.runtime.images.arrays import ImageArray

NAMES = ("astronaut", "coffee", "chelsea", "rocket")


def photographs(names: tuple[str, ...] = NAMES) -> dict[str, ImageArray]:
    """Photographs as uint8 (H, W, 3), by their names in `skimage.data`.

    Raises:
        MissingDependencyError: scikit-image is not installed.
    """
    require("skimage", "export")
    from skimage import data

    return {name: getattr(data, name)() for name in names}
