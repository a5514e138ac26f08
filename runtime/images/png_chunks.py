"""Chunks of PNG files: those before the pixels, read and replaced."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from adadm.runtime.images.vips import load_vips

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOUR_CHUNKS = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")
"""Chunks that say what the values mean, and that libvips drops."""

_MOST_CHUNKS, _MOST_BYTES = 1000, 1 << 16


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """The bytes of a chunk."""
    digest = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", digest)


def read_chunks(path: Path) -> dict[bytes, bytes]:
    """Chunks before the pixels, by kind; the data of large ones are left empty.

    Raises:
        OSError: the file cannot be read.
    """
    chunks: dict[bytes, bytes] = {}
    with open(path, "rb") as file:
        file.seek(len(PNG_SIGNATURE))
        for _ in range(_MOST_CHUNKS):
            head = file.read(8)
            length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"IEND")
            if kind in (b"IDAT", b"IEND"):
                break
            kept = length <= _MOST_BYTES
            chunks[kind] = file.read(length) if kept else b""
            file.seek(4 if kept else length + 4, 1)
    return chunks


def save_png(
    image: Any, path: Path, options: Mapping[str, object], added: Mapping[bytes, bytes], drop: bytes
) -> None:
    """Write an image of vips with other chunks before its pixels.

    Args:
        options: options of vips' `pngsave_target`.
        added: chunks by kind.
        drop: a kind to leave out; empty for none.

    Raises:
        OSError: the file cannot be written.
    """
    failures: list[OSError] = []
    with open(path, "wb") as file:
        chunks = _ChunkFilter(file, added, drop)

        def write(piece: bytes) -> int:
            try:
                chunks.write(piece)
            except OSError as error:  # lost in the caller, which is C
                failures.append(error)
                return -1
            return len(piece)

        target = load_vips().TargetCustom()
        target.on_write(write)
        try:
            image.pngsave_target(target, **options)
        except load_vips().Error:
            if failures:
                raise failures[0] from None
            raise


class _ChunkFilter:
    """Passes on a PNG that arrives in pieces, with other chunks before its pixels."""

    def __init__(self, file: BinaryIO, added: Mapping[bytes, bytes], drop: bytes) -> None:
        self._file, self._added, self._dropped = file, added, {drop, *added}
        self._waiting: bytearray | None = bytearray()
        self._is_begun = False

    def write(self, piece: bytes) -> None:
        if self._waiting is None:
            self._file.write(piece)
            return
        self._waiting += piece
        while self._waiting is not None and self._passes_one_on(self._waiting):
            pass

    def _passes_one_on(self, waiting: bytearray) -> bool:
        """Pass the first waiting chunk on; False if it is not there yet, or nothing is held."""
        kind = bytes(waiting[4:8]) if self._is_begun else b""
        if kind == b"IDAT":
            self._file.write(waiting)
            self._waiting = None
            return False
        if len(waiting) < 8:
            return False
        length = 12 + struct.unpack_from(">I", waiting)[0] if kind else len(PNG_SIGNATURE)
        if len(waiting) < length:
            return False
        if not kind or kind not in self._dropped:
            self._file.write(waiting[:length])
        del waiting[:length]
        if kind == b"IHDR":
            self._file.write(b"".join(png_chunk(*chunk) for chunk in self._added.items()))
        self._is_begun = True
        return True
