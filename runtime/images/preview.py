"""A picture of a source, enlarged by bicubic interpolation, beside its result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adadm.runtime.errors import ImageError
from adadm.runtime.files import written_whole
from adadm.runtime.images.photo_reader import open_photo
from adadm.runtime.images.vips import load_vips, reason_of

_GAP_PX = 8


def write_preview(path: Path, source: Path, result: Path) -> None:
    """Write a PNG of sRGB with the source on the left, as large as the result on the right.

    Raises:
        ImageError: a file cannot be read, or the PNG cannot be written.
        OSError: the PNG cannot be made.
    """
    before, after = (_as_srgb(file) for file in (source, result))
    enlarged = before.resize(
        after.width / before.width, vscale=after.height / before.height, kernel="cubic"
    )
    both = enlarged.join(after, "horizontal", shim=_GAP_PX, background=[255])
    try:
        with written_whole(path) as partial:
            both.pngsave(os.fsencode(partial), compression=3, keep="none")
    except load_vips().Error as error:
        raise ImageError(f"{path}: cannot be written ({reason_of(error)})") from error


def _as_srgb(path: Path) -> Any:
    """An image of three channels of 8 bits, alpha over white."""
    image = open_photo(path, float("inf")).picture()
    if image.hasalpha():
        white = 65535 if image.format == "ushort" else 255
        image = image.flatten(background=[white] * (image.bands - 1))
    if "icc-profile-data" in image.get_fields():
        try:
            return image.icc_transform("srgb", embedded=True, depth=8).copy_memory()
        except load_vips().Error:  # a damaged profile, or one that does not fit
            pass
    return image.colourspace("srgb").cast("uchar").copy_memory()
