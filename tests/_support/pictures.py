"""Images on which a mistake shows, and files that are none."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from adadm.runtime.images.arrays import Pixels


def scene(height: int, width: int, dtype: npt.DTypeLike = np.uint16, seed: int = 0) -> Pixels:
    """A black part, a bright flat one, waves with noise, and hard edges.

    Statistics of its parts differ as those of a photograph's do, or more. Results of 16 bits show
    errors of 1/257 of a grey level.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([127 + 90 * np.sin(x / (2.5 + c) + y / (4 - c)) for c in range(3)], axis=-1)
    image += rng.normal(0, 20, image.shape)
    image[: height // 2, : width // 2] = 0
    image[height // 2 :, : width // 3] = 200 + 20 * y[height // 2 :, : width // 3, None] / height
    image[height // 3 : 2 * height // 3, width // 2 : width // 2 + 9] = 255
    white = np.iinfo(np.dtype(dtype)).max
    pixels: Pixels = np.rint(np.clip(image, 0, 255) * (white / 255)).astype(dtype)
    return pixels


def smooth(height: int, width: int, channels: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(H, W, C), or (H, W) of one channel: lossy formats stay close; no two rows are alike."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, channels), np.uint8).squeeze())
    return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))


def noise(seed: int, *shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of some bytes whose header promises many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\x04IDAT" + bytes(8)


def files(folder: Path) -> list[str]:
    """The names of all, hidden ones too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def open_files(folder: Path) -> int:
    """How many files of a folder this process holds open, deleted ones too."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith(str(folder)) for link in links if os.path.lexists(link))
