"""Image files that ask too much of a decoder, or break it, made by hand and small."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from adadm.runtime.images.png_chunks import PNG_SIGNATURE, png_chunk


def jpeg_of_scans(scans: int, width: int = 64, height: int = 48) -> bytes:
    """A whole grey progressive JPEG; all its scans but the first repeat that nothing changes."""
    start = io.BytesIO()
    Image.new("L", (16, 16)).save(start, "JPEG", progressive=True)
    content = bytearray(start.getvalue())
    sof = content.index(b"\xff\xc2")
    content[sof + 5 : sof + 9] = struct.pack(">HH", height, width)
    tables = content.index(b"\xff\xc4")
    blocks = -(-width // 8) * -(-height // 8)
    # Huffman codes of one bit: no change of a block's mean, and 2 ** 14 blocks or more unchanged.
    codes = b"".join(bytes([kind, 1, *bytes(15), code]) for kind, code in ((0, 0), (16, 0xE0)))
    dht = b"\xff\xc4" + struct.pack(">H", 2 + len(codes)) + codes
    first = b"\xff\xda\0\x08\x01\x01\0\0\0\x01" + bytes(-(-blocks // 8))
    other = b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0" + b"\0\x01"
    return bytes(content[:tables]) + dht + first + other * (scans - 1) + b"\xff\xd9"


def bmp(width: int, height: int, bits: int = 24, *, run_lengths: bool = False) -> bytes:
    """A BMP that ends with its header."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, run_lengths, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def tiff(width: int, height: int) -> bytes:
    """An uncompressed grey TIFF that ends with its header."""
    values = (width, height, 8, 1, 1, 122, 1, height, width * height)
    tags = (256, 257, 258, 259, 262, 273, 277, 278, 279)
    entries = (struct.pack("<HHII", tag, 4, 1, v) for tag, v in zip(tags, values, strict=True))
    return b"II*\0\x08\0\0\0\x09\0" + b"".join(entries) + bytes(4)


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A grey PNG with other chunks, whose pixels end early."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(100))[:-6])
    return PNG_SIGNATURE + header + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"
"""Not an image, but a program, which Pillow would give to Ghostscript."""

BAD: dict[str, bytes] = {
    "scans.jpg": jpeg_of_scans(101),
    "tall.bmp": bmp(1, 499_999_999),
    "wide.bmp": bmp(499_999_999, 1),
    "header.bmp": bmp(13_000, 13_000),
    "runs.bmp": bmp(200, 200, 8, run_lengths=True),
    "tall.tif": tiff(1, 178_000_000),
    "header.tif": tiff(13_000, 13_000),
    "tall.png": png(1, 178_000_000),
    "cut.png": png(40, 40),
    "text.png": png(40, 40, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 21)))),
    "program.png": EPS,
    "text.jpg": b"no image",
    "empty.png": b"",
}
"""No pixel of these can be decoded."""
