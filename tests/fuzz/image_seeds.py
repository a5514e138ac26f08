"""Small image files of every kind that is read, made by code."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from PIL import Image, ImageCms

from _support.bad_pictures import jpeg_of_scans
from _support.photo_files import jpeg_with, png_with
from _support.pictures import smooth

_IMAGE = Image.fromarray(smooth(20, 26))


def _pillow(image: Image.Image, kind: str, *, others: int = 0, **options: Any) -> bytes:
    content = io.BytesIO()
    if others:
        options |= {"save_all": True, "append_images": [image.rotate(180)] * others}
    image.copy().save(content, kind, **options)  # JPEG leaves its settings on an image
    return content.getvalue()


def _vips(saver: str, **options: Any) -> bytes:
    deep = pyvips.Image.new_from_array(smooth(20, 26).astype(np.uint16) * 257)
    saved = getattr(deep.copy(interpretation="rgb16"), saver)(**options)
    return bytes(saved)


def _written(write: Any, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / f"a{suffix}")
        return (Path(folder) / f"a{suffix}").read_bytes()


@cache
def images() -> Mapping[str, bytes]:
    """Contents by name, whose suffix is that of the format."""
    exif = Image.Exif()
    exif[0x112], exif[0x11A], exif[0x11B], exif[0x10E] = 6, 300.0, 300.0, "words"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha, palette = _IMAGE.convert("RGBA"), _IMAGE.quantize(9)
    both: dict[str, Any] = {"exif": exif, "icc_profile": profile}
    return {
        "rgb.png": _pillow(_IMAGE, "PNG", dpi=(300, 300), **both),
        "alpha.png": _pillow(alpha, "PNG"),
        "palette.png": _pillow(palette, "PNG", transparency=3),
        "bits.png": _pillow(_IMAGE.convert("1"), "PNG"),
        "deep.png": _vips("pngsave_buffer", interlace=True),
        "animated.png": _pillow(_IMAGE, "PNG", others=1),
        "coded.png": _written(
            png_with((b"cICP", bytes([1, 8, 0, 1])), (b"gAMA", bytes([0, 1, 134, 160]))), ".png"
        ),
        "rgb.jpg": _pillow(_IMAGE, "JPEG", **both),
        "grey.jpg": _pillow(_IMAGE.convert("L"), "JPEG", progressive=True),
        "cmyk.jpg": _pillow(_IMAGE.convert("CMYK"), "JPEG", progressive=True),
        "scans.jpg": jpeg_of_scans(40),
        "hdr.jpg": _written(jpeg_with(2, b"urn:iso:std:iso:ts:21496:-1\0"), ".jpg"),
        "several.jpg": _pillow(_IMAGE, "MPO", others=1),
        "lossy.webp": _pillow(_IMAGE, "WEBP", **both),
        "lossless.webp": _pillow(alpha, "WEBP", lossless=True),
        "animated.webp": _pillow(_IMAGE, "WEBP", others=1),
        "raw.tif": _pillow(_IMAGE, "TIFF", **both),
        "lzw.tif": _pillow(alpha, "TIFF", compression="tiff_lzw"),
        "deflate.tif": _pillow(_IMAGE, "TIFF", compression="tiff_deflate"),
        "jpeg.tif": _pillow(_IMAGE, "TIFF", compression="jpeg"),
        "pages.tif": _pillow(_IMAGE, "TIFF", others=1),
        "fax.tif": _pillow(_IMAGE.convert("1"), "TIFF", compression="group4"),
        "deep.tif": _vips("tiffsave_buffer", tile=True, tile_width=16, tile_height=16),
        "rgb.bmp": _pillow(_IMAGE, "BMP"),
        "palette.bmp": _pillow(palette, "BMP"),
        "one.gif": _pillow(palette, "GIF", transparency=2),
        "animated.gif": _pillow(palette, "GIF", others=1),
        "rgb.avif": _pillow(_IMAGE, "AVIF", **both),
        "deep.avif": _vips("heifsave_buffer", compression="av1", bitdepth=10),
    }
