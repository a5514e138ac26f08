"""Photographs as arrays: reading, reducing, enlarging, writing.

An *image* here is a uint8 array (H, W, 3), RGB, 0..255. A *batch* is what networks take: float32
(N, 3, H, W), RGB, 0..rgb_range.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from adadm.runtime.errors import ImageError
from adadm.runtime.files import opened, written_whole
from adadm.runtime.images.decoding.limits import check_not_cut, check_scans, check_size, reading

ImageArray = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8 | np.uint16]
Batch = npt.NDArray[np.float32]

EXTENSIONS = frozenset({".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# The first alone: of others, some start programs (EPS), and some have no bounds on their work.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

# Keys' cubic reaches 2 pixels, stretched by the factor when reducing.
_CUBIC_REACH = 2


def read_image(path: str | os.PathLike[str]) -> ImageArray:
    """Read a file as 8-bit RGB (H, W, 3).

    Raises:
        ImageError: the file is missing, not a PNG, JPEG, WebP, TIFF, BMP or GIF, or damaged, or it
            asks for more than a decoder may take.
    """
    path = Path(path)
    with (
        reading(path, Exception),  # Pillow fails in many ways
        opened(path) as file,
        Image.open(file, formats=_FORMATS) as image,
    ):
        check_size(path, image.width, image.height)
        if image.format in ("JPEG", "MPO"):
            check_scans(path, file)
        check_not_cut(path, image)
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def write_image(path: str | os.PathLike[str], image: ImageArray, **options: Any) -> None:
    """Write 8-bit RGB (H, W, 3), whole or not at all; the suffix chooses the format.

    Args:
        options: options of Pillow's writer of the format.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    with written_whole(path) as partial:
        partial.write_bytes(encoded(image, partial.suffix, **options))


def encoded(image: Pixels, suffix: str, **options: Any) -> bytes:
    """Encode an image as the bytes of a file with Pillow.

    In memory, because Pillow ignores short writes: on a full disk the end of the file would be
    missing, without an error.

    Args:
        image: an array that `PIL.Image.fromarray` accepts.
        suffix: suffix of the format, such as `.png`.
        options: options of Pillow's writer of the format.
    """
    content = io.BytesIO()
    kind = Image.registered_extensions()[suffix.lower()]
    Image.fromarray(image).save(content, kind, **options)
    return content.getvalue()


def find_images(folders: Iterator[Path] | list[Path]) -> list[Path]:
    """All image files in folders (recursively) and among the files given, sorted within each.

    Raises:
        ImageError: a path does not exist, or a folder holds no image.
    """
    images: list[Path] = []
    for folder in folders:
        if not (folder.is_file() or folder.is_dir()):
            raise ImageError(f"{folder}: no such file or folder")
        inside = [folder] if folder.is_file() else images_in(folder)
        if not inside:
            raise ImageError(
                f"{folder}: expected images ({', '.join(sorted(EXTENSIONS))}), got none"
            )
        images += inside
    return images


def images_in(folder: Path) -> list[Path]:
    """Paths with the suffix of an image in a folder and below, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)


def crop_to_multiple(image: ImageArray, factor: int) -> ImageArray:
    """Drop the last rows and columns so that both sides divide by `factor`."""
    height, width = image.shape[:2]
    if min(height, width) < factor:
        raise ImageError(
            f"expected an image of at least {factor}x{factor} px, got {width}x{height}"
        )
    return image[: height - height % factor, : width - width % factor]


def reduce(image: ImageArray, factor: int) -> ImageArray:
    """Reduce by an integer with the antialiased bicubic kernel of MATLAB's `imresize`.

    Keys' cubic (a = -0.5) stretched by the factor, symmetric padding at the border, one rounding
    at the end. Pillow computes the kernel (in float32); mirroring the border first makes it agree
    with MATLAB there too, where Pillow alone renormalises the kernel instead.
    """
    height, width = image.shape[:2]
    if height % factor or width % factor:
        raise ImageError(
            f"expected image sides that are multiples of {factor}, got {width}x{height}; crop it"
        )
    return _resize(image, (height // factor, width // factor), _CUBIC_REACH * factor, _CUBIC_REACH)


def enlarge(image: ImageArray, factor: int) -> ImageArray:
    """Enlarge by an integer with MATLAB's bicubic `imresize` (the baseline of the literature)."""
    size = image.shape[0] * factor, image.shape[1] * factor
    return _resize(image, size, _CUBIC_REACH, _CUBIC_REACH * factor)


def _resize(image: ImageArray, size: tuple[int, int], pad: int, crop: int) -> ImageArray:
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    target = (size[1] + 2 * crop, size[0] + 2 * crop)
    planes = [
        Image.fromarray(padded[..., c].astype(np.float32)).resize(target, Image.Resampling.BICUBIC)
        for c in range(image.shape[2])
    ]
    resized = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return to_integers(resized[crop:-crop, crop:-crop], image.dtype)


def batch_from_image(image: Pixels, rgb_range: float) -> Batch:
    """(H, W, 3) uint8 or uint16 to (1, 3, H, W) float32 in 0..rgb_range."""
    scaled = image.astype(np.float32) * np.float32(rgb_range / np.iinfo(image.dtype).max)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def image_from_batch(
    batch: Batch, rgb_range: float, dtype: npt.DTypeLike = np.uint8
) -> npt.NDArray[Any]:
    """(1, 3, H, W) float32 in 0..rgb_range to (H, W, 3) integers, rounded half to even, clipped."""
    white = np.float32(np.iinfo(np.dtype(dtype)).max / rgb_range)
    planes = to_integers(batch[0] * white, np.dtype(dtype))
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def to_integers(values: npt.NDArray[np.floating], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Round to the nearest level and clip to the range of the integer data type."""
    rounded: npt.NDArray[Any] = np.rint(values)
    np.clip(rounded, 0, np.iinfo(dtype).max, out=rounded)
    return rounded.astype(dtype)
