"""A picture of a source, enlarged by bicubic interpolation, beside its result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from adadm.runtime.images.arrays import ImageArray, write_image
from adadm.runtime.images.photo_reader import open_photo
from adadm.runtime.images.vips import load_vips

_GAP_PX = 8


def write_preview(path: Path, source: Path, result: Path) -> None:
    """Write a PNG of sRGB with the source on the left, as large as the result on the right.

    Raises:
        ImageError: a file cannot be read.
        OSError: the PNG cannot be written.
    """
    before, after = (_as_srgb(file) for file in (source, result))
    height, width = after.shape[:2]
    enlarged = Image.fromarray(before).resize((width, height), Image.Resampling.BICUBIC)
    gap = np.full((height, _GAP_PX, 3), 255, np.uint8)
    both = np.concatenate([np.asarray(enlarged), gap, after], axis=1)
    write_image(path, both, compress_level=3)


def _as_srgb(path: Path) -> ImageArray:
    """An image (H, W, 3) of 8 bits, alpha over white."""
    image = open_photo(path, float("inf")).picture()
    if image.hasalpha():
        white = 65535 if image.format == "ushort" else 255
        image = image.flatten(background=[white] * (image.bands - 1))
    try:
        if image.get_typeof("icc-profile-data"):
            return np.asarray(image.icc_transform("srgb", embedded=True, depth=8).numpy())
    except load_vips().Error:  # a damaged profile, or one that does not fit
        pass
    return np.asarray(image.colourspace("srgb").cast("uchar").numpy())
