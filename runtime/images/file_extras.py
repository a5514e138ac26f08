"""What an image file holds besides the pixels of its first picture, and libvips does not tell."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, TiffImagePlugin

from adadm.runtime.images.file_kinds import AVIF, JPEG, NEW_SUBFILE_TYPE, PNG, TIFF, FileKind
from adadm.runtime.images.png_chunks import COLOUR_CHUNKS, read_chunks
from adadm.runtime.images.vips import field_names

_HEAD_BYTES = 1 << 20
_MOST_PAGES = 100  # of a TIFF that are looked at

_PRIMARIES = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_TRANSFERS = {8: "linear", 14: "BT.2020", 15: "BT.2020", 16: "PQ", 18: "HLG"}
_LIKE_SRGB = {(1, 1), (1, 2), (1, 6), (1, 13), (2, 2), (2, 13)}
_SRGB_GAMMA, _SRGB_CHROMATICITIES = 45455, (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)

_GAIN_MAP = re.compile(rb"hdrgm:|GainMap|urn:iso:std:iso:ts:21496:-1")
_FILM = re.compile(rb"""(?:MotionPhoto|MicroVideo)(?:>|=["'])1""")
_LARGE_THUMBNAILS = (0x010001, 0x010002)  # of CIPA DC-007: previews for monitors


class Extras(NamedTuple):
    """What is beside the pixels.

    Attributes:
        notes: what is left out, in a few words each.
        chunks: PNG chunks that say what the values mean.
        cicp: primaries and transfer of ITU-T H.273, if the file names them.
        has_resolution: False if the file names no resolution, or the format is not read here.
        has_gain_map: True if a second picture says how to brighten this one.
        has_profile: True if the file has an ICC profile, which every format holds.
    """

    notes: tuple[str, ...] = ()
    chunks: Mapping[bytes, bytes] = {}
    cicp: tuple[int, int] | None = None
    has_resolution: bool = False
    has_gain_map: bool = False
    has_profile: bool = False

    @property
    def png_chunks(self) -> dict[bytes, bytes]:
        """Chunks that say the same in a PNG."""
        coded = {} if self.cicp is None else {b"cICP": bytes([*self.cicp, 0, 1])}
        return {**coded, **self.chunks}

    def colours(self, *, has_srgb_curve: bool) -> str:
        """Colours other than sRGB's that no ICC profile describes, in words; else empty.

        Args:
            has_srgb_curve: True if the values have been given sRGB's curve.
        """
        if self.cicp is not None:
            if self.cicp in _LIKE_SRGB:
                return ""
            primaries, transfer = self.cicp
            if has_srgb_curve:
                return _PRIMARIES.get(primaries, "")
            return (
                f"{_PRIMARIES.get(primaries, f'primaries {primaries}')}, "
                f"{_TRANSFERS.get(transfer, f'transfer {transfer}')}"
            )
        if self.has_profile or b"sRGB" in self.chunks:
            return ""
        gamma = _integers(self.chunks.get(b"gAMA", b""))
        chromaticities = _integers(self.chunks.get(b"cHRM", b""))
        if gamma and not has_srgb_curve and abs(gamma[0] / _SRGB_GAMMA - 1) > 0.05:
            return f"gAMA {gamma[0] / 100_000:g}"
        if len(chromaticities) == 8 and any(
            abs(value - known) > 1000
            for value, known in zip(chromaticities, _SRGB_CHROMATICITIES, strict=True)
        ):
            return "cHRM"
        return ""


def read_extras(path: Path, kind: FileKind, image: Any) -> Extras:
    """Extras of a file.

    Args:
        image: the image of vips, not yet decoded.

    Raises:
        OSError: the file cannot be read.
    """
    fields = set(field_names(image))
    pages = image.get("n-pages") if "n-pages" in fields else 1
    if kind is TIFF and 1 < pages <= _MOST_PAGES:
        pages -= _reduced_pages(path, pages)
    notes = (_frames(pages, kind.name),) if pages > 1 else ()
    named = "exif-data" in fields and _names_resolution(image.get("exif-data"))
    # libvips gives 1 px/mm to what has no resolution, and 72 dpi to such a PNG or JPEG.
    found = kind not in (PNG, JPEG) and (image.xres, image.yres) != (1, 1)
    has_profile = "icc-profile-data" in fields
    extras = Extras(notes, has_resolution=named or found, has_profile=has_profile)
    read: Mapping[FileKind, Callable[[Path, Extras], Extras]] = {
        PNG: _of_png,
        JPEG: _of_jpeg,
        AVIF: _of_avif,
    }
    return read[kind](path, extras) if kind in read else extras


def _reduced_pages(path: Path, pages: int) -> int:
    """Pages of a TIFF that are smaller copies of others, as in a pyramid."""
    try:
        with TiffImagePlugin.TiffImageFile(path) as tiff:
            kinds = []
            for page in range(pages):
                tiff.seek(page)
                kinds.append(tiff.tag_v2.get(NEW_SUBFILE_TYPE, 0))
            return sum(kind & 1 for kind in kinds)
    except Exception:  # noqa: BLE001 - Pillow knows fewer TIFFs than libtiff
        return 0


def _names_resolution(exif: bytes) -> bool:
    """True if an EXIF has a resolution; libvips adds one to its fields."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        return {0x11A, 0x11B} <= tags.keys()
    except Exception:  # noqa: BLE001 - damaged, in many ways
        return False


def _frames(count: int, what: str) -> str:
    return f"{count} pictures ({what}), of which the first alone is taken"


def _of_png(path: Path, extras: Extras) -> Extras:
    chunks = read_chunks(path)
    animation, cicp = _integers(chunks.get(b"acTL", b"")), chunks.get(b"cICP", b"")
    return extras._replace(
        notes=(_frames(animation[0], "APNG"),) if animation and animation[0] > 1 else (),
        chunks={kind: chunks[kind] for kind in COLOUR_CHUNKS if chunks.get(kind)},
        cicp=(cicp[0], cicp[1]) if len(cicp) == 4 else None,
        has_resolution=extras.has_resolution or b"pHYs" in chunks,
    )


def _of_jpeg(path: Path, extras: Extras) -> Extras:
    segments = list(_jpeg_segments(_head(path)))
    has_gain_map = any(_GAIN_MAP.search(data) for marker, data in segments if marker in (1, 2))
    pictures = max((_pictures(data[4:]) for _, data in segments if data[:4] == b"MPF\0"), default=1)
    notes: list[str] = []
    if has_gain_map:
        notes.append("its gain map (Ultra HDR) is left out: the result is the SDR picture")
    elif pictures > 1:
        notes.append(_frames(pictures, "MPO"))
    if any(_FILM.search(data) for marker, data in segments if marker == 1):
        notes.append("its film (motion photo) is left out")
    units = [data[7] for marker, data in segments if marker == 0 and data[:5] == b"JFIF\0"]
    has_resolution = extras.has_resolution or units[:1] not in ([], [0])
    return extras._replace(
        notes=tuple(notes), has_resolution=has_resolution, has_gain_map=has_gain_map
    )


def _of_avif(path: Path, extras: Extras) -> Extras:
    head, notes = _head(path), list(extras.notes)
    coded = re.search(rb"colrnclx(....)", head, re.DOTALL)
    if b"tmap" in head[:64]:
        notes.append("its gain map is left out: the result is the base picture")
    samples = re.search(rb"stsz.{8}(....)", head, re.DOTALL)  # one track of pictures
    if b"avis" in head[:64] and samples:
        notes.append(_frames(struct.unpack(">I", samples[1])[0], "animated AVIF"))
    cicp = struct.unpack(">HH", coded[1]) if coded and b"colrprof" not in head else None
    return extras._replace(notes=tuple(notes), cicp=cicp)


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD_BYTES)


def _integers(data: bytes) -> tuple[int, ...]:
    """Big-endian numbers of 32 bits; none if the length is wrong."""
    return struct.unpack(f">{len(data) // 4}I", data) if len(data) % 4 == 0 else ()


def _jpeg_segments(head: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each application segment before the pixels."""
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF and head[at + 1] != 0xDA:
        if head[at + 1] == 0xFF:  # fill
            at += 1
            continue
        length = struct.unpack_from(">H", head, at + 2)[0]
        if 0xE0 <= head[at + 1] <= 0xEF:
            yield head[at + 1] - 0xE0, head[at + 4 : at + 2 + length]
        at += 2 + length


def _pictures(index: bytes) -> int:
    """Pictures of a multi-picture index (CIPA DC-007), without large thumbnails; 1 if damaged."""
    try:
        order = "<" if index[:2] == b"II" else ">"
        start = struct.unpack_from(order + "I", index, 4)[0]
        for entry in range(min(99, struct.unpack_from(order + "H", index, start)[0])):
            tag, _, size, place = struct.unpack_from(order + "HHII", index, start + 2 + 12 * entry)
            if tag == 0xB002:  # 16 bytes a picture, the first 4 of them its attributes
                kinds = [
                    struct.unpack_from(order + "I", index, place + 16 * i)[0] & 0xFFFFFF
                    for i in range(min(999, size // 16))
                ]
                return sum(kind not in _LARGE_THUMBNAILS for kind in kinds)
    except struct.error:
        pass
    return 1
