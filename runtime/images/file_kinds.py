"""Kinds of image files, by their content; and the suffixes that are looked for in folders."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import TiffImagePlugin

from adadm.runtime.errors import ImageError
from adadm.runtime.files import mistaken
from adadm.runtime.images.arrays import EXTENSIONS
from adadm.runtime.images.vips import load_vips

PHOTO_SUFFIXES = EXTENSIONS | {".apng", ".avif", ".gif", ".mpo"}
"""Suffixes of files that `open_photo` reads with every libvips."""

PROBED_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".j2k", ".jp2", ".jxl"})
"""Suffixes of files that `open_photo` reads if the installed libvips has a decoder."""


class FileKind(NamedTuple):
    """A format; `loader` is the operation of vips that reads it, or empty for Pillow.

    It is decoded apart where the work of its decoder has no bound that a header shows: AV1 and HEVC
    may code thousands of pictures that are not seen, JPEG XL may lay as many over each other.
    """

    name: str
    loader: str
    is_decoded_apart: bool = False


PNG = FileKind("PNG", "pngload_source")
JPEG = FileKind("JPEG", "jpegload_source")  # by name: vips would read some as Ultra HDR
WEBP = FileKind("WebP", "webpload_source")
TIFF = FileKind("TIFF", "tiffload_source")
BMP = FileKind("BMP", "")  # vips has no loader
GIF = FileKind("GIF", "gifload_source")
AVIF = FileKind("AVIF", "heifload_source", is_decoded_apart=True)
_HEIC = FileKind("HEIC", "heifload_source", is_decoded_apart=True)
_JXL = FileKind("JPEG XL", "jxlload_source", is_decoded_apart=True)
_JPEG_2000 = FileKind("JPEG 2000", "jp2kload_source", is_decoded_apart=True)

_MAGIC = {
    b"\x89PNG": PNG,
    b"\xff\xd8\xff": JPEG,
    b"II*\0": TIFF,
    b"MM\0*": TIFF,
    b"II+\0": TIFF,  # BigTIFF
    b"MM\0+": TIFF,
    b"BM": BMP,
    b"GIF8": GIF,
    b"\xff\x0a": _JXL,
    b"\0\0\0\x0cJXL ": _JXL,
    b"\0\0\0\x0cjP  ": _JPEG_2000,
    b"\xff\x4f\xff\x51": _JPEG_2000,
}
_AVIF_BRANDS, _HEIC_BRANDS = (b"avif", b"avis"), (b"hei", b"hev", b"mif1", b"msf1")
_HEAD_BYTES = 64

# TIFF tags: a first page that is a reduced copy, as in NEF and ARW; DNG.
NEW_SUBFILE_TYPE, _DNG_VERSION = 254, 50706


def kind_of(path: Path) -> FileKind:
    """The kind of a file by its content.

    Raises:
        ImageError: it is no image of a kind that the installed libvips reads, or a camera's raw
            data.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    kind = _kind_by_head(head)
    if kind is None:
        if b"<?xml" not in head and (problem := mistaken(head)):  # not SVG
            raise ImageError(f"{path} {problem}")
        raise ImageError(f"{path}: not a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF image")
    if kind.loader and not load_vips().type_find("VipsOperation", kind.loader):
        raise undecodable(path, kind)
    if kind is TIFF and _is_camera_raw(path, head):
        raise ImageError(
            f"{path}: expected a picture, got a camera's raw data with a preview; develop it into "
            "a TIFF, PNG or JPEG first"
        )
    return kind


def undecodable(path: Path, kind: FileKind) -> ImageError:
    """The error of a file that the installed libvips cannot decode."""
    return ImageError(
        f"{path}: the installed libvips has no decoder of {kind.name}; convert the file to PNG, "
        "TIFF or JPEG first"
    )


def _kind_by_head(head: bytes) -> FileKind | None:
    if head[:4] == b"RIFF":
        return WEBP if head[8:12] == b"WEBP" else None
    if head[4:8] == b"ftyp":
        end = min(len(head), int.from_bytes(head[:4], "big"))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
        if any(brand in _AVIF_BRANDS for brand in brands):
            return AVIF
        return _HEIC if any(brand.startswith(_HEIC_BRANDS) for brand in brands) else None
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def _is_camera_raw(path: Path, head: bytes) -> bool:
    if head[8:10] == b"CR":  # Canon's CR2
        return True
    try:
        with TiffImagePlugin.TiffImageFile(path) as tiff:  # not Image.open, which has a limit
            tags = tiff.tag_v2
            return _DNG_VERSION in tags or bool(tags.get(NEW_SUBFILE_TYPE, 0) & 1)
    except Exception:  # noqa: BLE001 - Pillow knows fewer TIFFs than libtiff, and fails in many ways
        return False
