"""What an image file may ask of its decoder, looked at before any memory is taken for pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from adadm.runtime.errors import ImageError
from adadm.runtime.images.vips import codec_reason

_LONGEST_SIDE_PX = 10_000_000
"""Longest side, as in libvips. Pillow takes 8 bytes for each row besides its pixels."""

_MOST_SCANS = 100
"""Most scans of a JPEG, as in libtiff; encoders make 10 to 20, and each costs as much as a picture.
"""

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# What is no stuffed byte, no restart, no fill, and no marker without a length.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")


def check_size(path: Path, width: int, height: int, largest_megapixels: float = math.inf) -> None:
    """Refuse an image that is too large, by its header.

    Raises:
        ImageError: it has more pixels than allowed, or a side longer than any decoder's.
    """
    megapixels = width * height / 1e6
    if megapixels > largest_megapixels:
        raise ImageError(
            f"{path}: expected at most {largest_megapixels:g} megapixels, got {megapixels:.0f} "
            f"({width}x{height}); if you trust the file, allow more with --max-megapixels"
        )
    if max(width, height) > _LONGEST_SIDE_PX:
        raise ImageError(
            f"{path}: expected sides of at most {_LONGEST_SIDE_PX} px, got {width}x{height}"
        )


def check_scans(path: Path, file: BinaryIO) -> None:
    """Refuse a JPEG whose scans would keep a decoder busy for minutes.

    Raises:
        ImageError: it has too many scans.
    """
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    if content.count(b"\xff\xda") <= _MOST_SCANS:  # thumbnails and others' bytes included
        return
    scans = sum(marker == _START_OF_SCAN for marker in _markers(content))
    if scans > _MOST_SCANS:
        raise ImageError(
            f"{path}: expected a JPEG of at most {_MOST_SCANS} scans, got {scans}; if you trust "
            "the file, convert it to PNG first"
        )


def _markers(content: bytes) -> Iterator[int]:
    """Markers with a length of the first picture in a JPEG, in order."""
    at = 2
    while (found := _MARKER.search(content, at)) and found[1][0] != _END_OF_IMAGE:
        yield found[1][0]
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")


def check_not_cut(path: Path, image: Any) -> None:
    """Refuse a file of Pillow whose uncompressed pixels lie behind its end.

    Raises:
        ImageError: it is cut.
    """
    size = path.stat().st_size
    for codec, (left, top, right, bottom), offset, options in image.tile:
        least = -(-(right - left) // 8)  # of a row, in bytes
        row = max(least, options[1] or 0) if isinstance(options, tuple) else least
        if codec == "raw" and offset + row * (bottom - top) > size:
            raise ImageError(
                f"{path}: not a readable image (its header asks for more bytes than the file has)"
            )


@contextmanager
def reading(path: Path, failure: type[Exception]) -> Iterator[None]:
    """Turn what a decoder raises into an error of the tree.

    Args:
        failure: exception of the decoder, beside those of the system.

    Raises:
        ImageError: the file is missing, not an image or damaged, or memory does not suffice.
    """
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except MemoryError as error:
        raise ImageError(f"{path}: not enough memory to decode it") from error
    except (failure, OSError, UnicodeDecodeError) as error:  # pyvips decodes what libvips says
        raise ImageError(f"{path}: not a readable image ({codec_reason(error)})") from error
