"""Image files as other programs write them, each from one small photograph."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pyvips
from PIL import Image, ImageCms

from _support.pictures import smooth
from adadm.runtime.images.png_chunks import png_chunk

Write = Callable[[Path], object]


def photograph() -> npt.NDArray[np.uint8]:
    return smooth(24, 32)


def by_pillow(*, others: int = 0, **options: Any) -> Write:
    """Save with Pillow; `others` further pictures follow the first."""

    def write(path: Path) -> None:
        image = Image.fromarray(photograph())
        if others:
            further = [Image.fromarray(np.roll(photograph(), i + 1, 0)) for i in range(others)]
            options.update(save_all=True, append_images=further)
        image.save(path, **options)

    return write


def by_tifffile(pages: int = 1, bits: int = 8, **options: Any) -> Write:
    def write(path: Path) -> None:
        image = photograph() if bits == 8 else photograph().astype(np.uint16) * 257
        stack = np.stack([image, *[image[:, ::-1]] * (pages - 1)])
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, stack if pages > 1 else image, photometric="rgb", **options)

    return write


def pyramid(path: Path) -> None:
    """A TIFF with two smaller copies of its picture."""
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(path) as tiff:
        for level in range(3):
            part = np.ascontiguousarray(photograph()[:: 2**level, :: 2**level])
            tiff.write(part, photometric="rgb", subfiletype=int(level > 0))


def by_opencv(bits: int = 8) -> Write:
    def write(path: Path) -> None:
        image = photograph() if bits == 8 else photograph().astype(np.uint16) * 257
        cv2 = pytest.importorskip("cv2")
        assert cv2.imwrite(str(path), image[..., ::-1])

    return write


def by_vips(operation: str, *, bits: int = 8, **options: Any) -> Write:
    def write(path: Path) -> None:
        image = photograph() if bits == 8 else photograph().astype(np.uint16) * 257
        kind = "srgb" if bits == 8 else "rgb16"
        saved = pyvips.Image.new_from_array(image).copy(interpretation=kind)
        getattr(saved, operation)(str(path), **options)

    return write


def png_with(*chunks: tuple[bytes, bytes]) -> Write:
    """A PNG of Pillow's with further chunks after the first."""

    def write(path: Path) -> None:
        content = io.BytesIO()
        Image.fromarray(photograph()).save(content, "PNG")
        start, rest = content.getvalue()[:33], content.getvalue()[33:]
        path.write_bytes(start + b"".join(png_chunk(*chunk) for chunk in chunks) + rest)

    return write


def jpeg_with(marker: int, data: bytes, after: bytes = b"") -> Write:
    """A JPEG of Pillow's with a further segment at its start, and bytes after its end."""

    def write(path: Path) -> None:
        content = io.BytesIO()
        Image.fromarray(photograph()).save(content, "JPEG", quality=95)
        segment = struct.pack(">BBH", 0xFF, 0xE0 + marker, len(data) + 2) + data
        path.write_bytes(content.getvalue()[:2] + segment + content.getvalue()[2:] + after)

    return write


def curve(*, gamma: float | None = None, points: Sequence[float] = ()) -> bytes:
    """A tone curve of ICC profiles: a table, a gamma, or the identity."""
    if points:
        table = np.rint(np.multiply(points, 65535)).astype(">u2").tobytes()
        return b"curv\0\0\0\0" + struct.pack(">I", len(points)) + table
    if gamma is None:
        return b"curv" + bytes(8)
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def parametric(kind: int, *parameters: float) -> bytes:
    """A parametric tone curve of ICC profiles."""
    values = [round(65536 * value) for value in parameters]
    return b"para\0\0\0\0" + struct.pack(f">HH{len(values)}i", kind, 0, *values)


def profile_with(tone: bytes, **changes: bytes) -> bytes:
    """Little CMS's profile of sRGB with another tone curve; `changes` replaces further tags."""
    raw = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    count = struct.unpack_from(">I", raw, 128)[0]
    entries = [struct.unpack_from(">4sII", raw, 132 + 12 * i) for i in range(count)]
    tags = {name: raw[start : start + size] for name, start, size in entries}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone)
    tags |= {name.encode(): value for name, value in changes.items()}
    table, data, at = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        table += struct.pack(">4sII", name, at + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    body = raw[4:128] + struct.pack(">I", len(tags)) + table + data
    return struct.pack(">I", len(body) + 4) + body


def grey_profile(tone: bytes, space: bytes = b"XYZ ") -> bytes:
    """A profile of grey; `space` is its connection space."""
    raw = bytearray(profile_with(tone, kTRC=tone))
    raw[16:24] = b"GRAY" + space
    return bytes(raw)


def light_of(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Light 0..1 of sRGB's values 0..1 (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
