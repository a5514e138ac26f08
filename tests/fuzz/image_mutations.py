"""Changes of image files by what their formats consist of, with right lengths and checksums."""

from __future__ import annotations

import random
import struct

from adadm.runtime.images.png_chunks import PNG_SIGNATURE, png_chunk
from fuzz.mutations import Mutate, mutate_bytes

_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    24,
    254,
    255,
    256,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
_BOXES = (b"meta", b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iinf", b"iref")

_LEAVES = (b"ispe", b"pixi", b"av1C", b"colr", b"irot", b"imir", b"ipma", b"iloc", b"free")


def mutate_image(data: bytes, rng: random.Random) -> bytes:
    """Change a file in the way of its format, or, one time in four, just its bytes."""
    change = next((change for magic, change in _BY_MAGIC if magic in data[:12]), mutate_bytes)
    if rng.random() < 0.25:
        change = mutate_bytes
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = _changed(change, data, rng)
    return data[: 1 << 20]


def _changed(change: Mutate, data: bytes, rng: random.Random) -> bytes:
    try:
        return change(data, rng)
    except (struct.error, ValueError, IndexError):  # an earlier change has damaged it
        return mutate_bytes(data, rng)


def _number(rng: random.Random) -> int:
    return rng.choice((*_NUMBERS, rng.randrange(100), rng.randrange(70_000)))


Parts = list[tuple[bytes, bytes]]


def _mutate_parts(parts: Parts, rng: random.Random, kinds: tuple[bytes, ...]) -> Parts:
    """Remove, repeat, move, rename, replace or change a part."""
    at = rng.randrange(len(parts))
    kind, content = parts[at]
    choice = rng.randrange(8)
    if choice == 0:
        del parts[at]
    elif choice == 1:
        parts[at:at] = [parts[at]] * rng.choice((1, 1, 3, 200))
    elif choice == 2:
        parts.insert(rng.randrange(len(parts)), parts.pop(at))
    elif choice == 3:
        parts[at] = (rng.choice(kinds), content)
    elif choice == 4:
        size = rng.choice((0, 1, 4, 8, 13, 100, 5000))
        parts.insert(at, (rng.choice(kinds), rng.randbytes(size)))
    elif choice == 5 and len(content) >= 4:
        start = rng.randrange(len(content) - 3)
        form = rng.choice((">I", "<I", ">H", "<H"))
        number = struct.pack(form, _number(rng) % (1 << 8 * struct.calcsize(form)))
        parts[at] = (kind, content[:start] + number + content[start + len(number) :])
    else:
        parts[at] = (kind, mutate_bytes(content, rng))
    return parts


_CHUNKS = (
    *(b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"),
    *(b"eXIf", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT", b"mDCV", b"cLLI"),
)


def _mutate_png(data: bytes, rng: random.Random) -> bytes:
    parts, at = [], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        parts.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return PNG_SIGNATURE + b"".join(
        png_chunk(kind, content) for kind, content in _mutate_parts(parts, rng, _CHUNKS)
    )


_MARKERS = tuple(bytes([marker]) for marker in (*range(0xC0, 0xF0), 0xFE, 0x01))


def _mutate_jpeg(data: bytes, rng: random.Random) -> bytes:
    parts, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        length = struct.unpack_from(">H", data, at + 2)[0]
        end = at + 2 + length
        if data[at + 1] == 0xDA:  # and what it scans, up to the next marker
            while end + 1 < len(data) and (
                data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8))
            ):
                end += 1
        parts.append((data[at + 1 : at + 2], data[at + 4 : end]))
        at = end
    if rng.random() < 0.1:
        scans = [part for part in parts if part[0] == b"\xda"]
        parts += scans[-1:] * rng.choice((1, 20, 99, 101, 300))
    changed = b""
    for kind, content in _mutate_parts(parts, rng, _MARKERS):
        length = 2 + (len(content) if kind != b"\xda" else 1 + 2 * content[:1].ljust(1)[0] + 3)
        changed += b"\xff" + kind + struct.pack(">H", min(length, 65535)) + content
    return b"\xff\xd8" + changed + data[at:]


def _mutate_tiff(data: bytes, rng: random.Random) -> bytes:
    """Change an entry of the first directory: tag, type, count or value."""
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, start)[0]
    at = start + 2 + 12 * rng.randrange(count)
    changed = bytearray(data)
    place = rng.randrange(5)
    if place == 0:
        tag = rng.choice((*range(254, 350), 700, 33723, 34377, 34665, 34675, 50706, 37724))
        struct.pack_into(order + "H", changed, at, tag)
    elif place == 1:
        struct.pack_into(order + "H", changed, at + 2, rng.randrange(20))
    elif place == 2:
        struct.pack_into(order + "I", changed, at + 4, _number(rng))
    elif place == 3 or rng.random() < 0.5:
        struct.pack_into(order + "I", changed, at + 8, _number(rng))
    else:  # where the next directory is
        struct.pack_into(
            order + "I", changed, start + 2 + 12 * count, rng.choice((start, 8, _number(rng)))
        )
    return bytes(changed)


def _mutate_header(data: bytes, rng: random.Random) -> bytes:
    """Change a number of the first bytes, as of BMP and GIF."""
    form = rng.choice(("<I", "<H", "<i", "B"))
    at = rng.randrange(2, 60)
    number = _number(rng) % (1 << 8 * struct.calcsize(form) - (form == "<i"))
    changed = bytearray(data)
    struct.pack_into(form, changed, at, number)
    return bytes(changed)


def _mutate_riff(data: bytes, rng: random.Random) -> bytes:
    parts, at = [], 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        parts.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    kinds = (
        b"VP8 ",
        b"VP8L",
        b"VP8X",
        b"ALPH",
        b"ANIM",
        b"ANMF",
        b"ICCP",
        b"EXIF",
        b"XMP ",
        b"LIST",
    )
    changed = b"".join(
        kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for kind, content in _mutate_parts(parts, rng, kinds)
    )
    return b"RIFF" + struct.pack("<I", 4 + len(changed)) + data[8:12] + changed


def _mutate_boxes(data: bytes, rng: random.Random, depth: int = 5) -> bytes:
    parts, at = [], 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        length = max(8, length)
        parts.append((kind, data[at + 8 : at + length]))
        at += length
    inside = [place for place, (kind, _) in enumerate(parts) if kind in _BOXES]
    if depth and inside and rng.random() < 0.8:
        place = rng.choice(inside)
        kind, content = parts[place]
        head = {b"meta": 4, b"iinf": 6, b"iref": 4}.get(kind, 0)
        parts[place] = (kind, content[:head] + _mutate_boxes(content[head:], rng, depth - 1))
    elif parts:
        kinds = (
            *_BOXES,
            b"ispe",
            b"pixi",
            b"av1C",
            b"colr",
            b"irot",
            b"imir",
            b"ipma",
            b"iloc",
            b"free",
        )
        parts = _mutate_parts(parts, rng, kinds)
    return b"".join(struct.pack(">I", 8 + len(c)) + k + c for k, c in parts)


_BY_MAGIC: tuple[tuple[bytes, Mutate], ...] = (
    (PNG_SIGNATURE, _mutate_png),
    (b"\xff\xd8\xff", _mutate_jpeg),
    (b"II*\0", _mutate_tiff),
    (b"MM\0*", _mutate_tiff),
    (b"RIFF", _mutate_riff),
    (b"ftyp", _mutate_boxes),
    (b"BM", _mutate_header),
    (b"GIF8", _mutate_header),
)
