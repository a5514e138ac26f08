"""Headers of films, made byte by byte as their formats order them. A new kind is one line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from adadm.runtime.video.film_header import FilmHeader, read_film_header


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I", 8 + len(data)) + kind + data


def handler(kind: bytes, component: bytes = bytes(4)) -> bytes:
    return box(b"trak", box(b"hdlr", bytes(4), component, kind, bytes(12)))


def colour(*numbers: int) -> bytes:
    return box(b"colr", b"nclx", struct.pack(">3H", *numbers), b"\0")


def iso(*boxes: bytes) -> bytes:
    return box(b"ftyp", b"isom", bytes(8)) + box(b"mdat", b"hdlr" + b"soun" * 9) + b"".join(boxes)


def element(name: bytes, data: bytes) -> bytes:
    return name + bytes([0x80 | len(data)]) + data


def matroska(*parts: bytes) -> bytes:
    frames = b"\x1f\x43\xb6\x75" + element(b"\x86", b"A_AAC")
    return b"\x1a\x45\xdf\xa3" + bytes(20) + b"".join(parts) + frames


MKV_709 = b"".join(element(name, b"\x01") for name in (b"\x55\xb1", b"\x55\xba", b"\x55\xbb"))
MKV_PQ = element(b"\x55\xb1", b"\x09") + element(b"\x55\xba", b"\x10")
VIDEO, SOUND, TEXT = (element(b"\x86", name) for name in (b"V_AV1", b"A_OPUS", b"S_TEXT/UTF8"))

# A film, its rows, whether its pixels have 8 bits, and what is said of it.
SILENT_HD = "no colour tags"
FILMS: list[tuple[str, bytes, int, str, list[str]]] = [
    ("mp4", iso(box(b"moov", handler(b"vide"))), 480, "I420", []),
    ("sound", iso(box(b"moov", handler(b"vide"), handler(b"soun"))), 480, "I420", ["1 of sound"]),
    (
        "mov",
        box(b"moov", handler(b"soun", b"mhlr"), handler(b"sbtl"), handler(b"text")),
        480,
        "I420",
        ["1 of sound and 2 of subtitles"],
    ),
    ("tagged", iso(box(b"moov", colour(1, 1, 1))), 1080, "I420", ["tags are not copied"]),
    ("untagged", iso(box(b"moov", handler(b"vide"))), 720, "I420", [SILENT_HD]),
    ("unspecified", iso(box(b"moov", colour(2, 2, 2))), 720, "I420", [SILENT_HD]),
    ("pq", iso(box(b"moov", colour(9, 16, 9))), 480, "Y3\x0b\n", ["8 bits", "(PQ)", "tags"]),
    ("2020", iso(box(b"moov", colour(9, 14, 9))), 480, "I420", ["BT.2020 (SDR)", "tags"]),
    ("mkv", matroska(VIDEO), 480, "I420", []),
    ("mkv sound", matroska(VIDEO, SOUND, SOUND, TEXT), 480, "I420", ["2 of sound and 1 of sub"]),
    ("mkv tagged", matroska(VIDEO, MKV_709), 1080, "I420", ["tags are not copied"]),
    ("mkv pq", matroska(VIDEO, MKV_PQ), 1080, "I420", ["(PQ)", "tags are not copied"]),
    ("avi", b"RIFF\0\0\0\0AVI strh\0\0\0\0vidsmovistrh\0\0\0\0auds", 480, "I420", []),
    ("avi sound", b"RIFF\0\0\0\0AVI strh\0\0\0\0audsmovi", 480, "I420", ["1 of sound"]),
    ("other", b"G" + bytes(187), 1080, "I420", ["sound and subtitles, if it has any"]),
    ("empty", b"", 1080, "I420", ["sound and subtitles, if it has any"]),
    ("cut box", iso(b"\0\0\0\0"), 480, "I420", []),
    ("box to the end", iso(b"\0\0\0\0moov" + handler(b"soun")), 480, "I420", ["1 of sound"]),
    ("no length", iso(b"\0\0\0\x03free"), 480, "I420", []),
]


@pytest.mark.parametrize(
    ("film", "rows", "pixels", "said"), [row[1:] for row in FILMS], ids=[row[0] for row in FILMS]
)
def test_what_a_film_has_is_said(
    tmp_path: Path, film: bytes, rows: int, pixels: str, said: list[str]
) -> None:
    (tmp_path / "film").write_bytes(film)
    header = read_film_header(tmp_path / "film")
    found = header.warnings(rows, pixels, is_video=True)
    assert len(found) == len(said), found
    assert all(part in text for part, text in zip(said, found, strict=True)), found


def test_images_lack_neither_sound_nor_tags() -> None:
    header = FilmHeader(is_known=True, sounds=1, subtitles=1, matrix=1, transfer=1)
    assert header.warnings(1080, "I420", is_video=False) == []
    assert FilmHeader().warnings(1080, "I420", is_video=False) == []
