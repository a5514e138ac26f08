"""Headers of films for `runtime/camera.py`; the frames are OpenCV's to read."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from pathlib import Path

from adadm.runtime.video.film_header import read_film_header
from adadm.runtime.video.film_timing import FilmTiming
from fuzz.image_mutations import mutate_image
from fuzz.mutations import mutate_bytes
from fuzz.reader import Fault, Files, Reader


def _box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I", 8 + len(data)) + kind + data


def _seeds() -> Mapping[str, Files]:
    sound = _box(b"trak", _box(b"mdia", _box(b"hdlr", bytes(8), b"soun", bytes(12))))
    colours = _box(b"colr", b"nclx", struct.pack(">3H", 9, 16, 9), b"\0")
    movie = _box(b"moov", sound, _box(b"trak", colours))
    large = struct.pack(">I4sQ", 1, b"mdat", 16 + 40) + bytes(40)
    codec = b"\x86\x85A_AAC" + b"\x55\xb1\x81\x09\x55\xba\x81\x10"
    stream = struct.pack("<4sI4s", b"strh", 8, b"auds") + bytes(8)
    films = {
        "iso": _box(b"ftyp", b"isom", bytes(8)) + _box(b"mdat", bytes(99)) + movie,
        "long": _box(b"ftyp", b"isom", bytes(8)) + large + movie,
        "matroska": b"\x1a\x45\xdf\xa3" + bytes(20) + codec + b"\x1f\x43\xb6\x75" + bytes(50),
        "avi": b"RIFF" + struct.pack("<I", 99) + b"AVI " + stream + b"movi" + bytes(40),
    }
    return {name: {"film": content} for name, content in films.items()}


def _mutate(files: Files, rng: random.Random) -> Files:
    change = mutate_image if b"ftyp" in files["film"] else mutate_bytes
    return {"film": change(files["film"], rng)}


def _read(folder: Path, seed: Files) -> None:
    header = read_film_header(folder / "film")
    warnings = header.warnings(1080, "I420", is_video=True)
    size = (folder / "film").stat().st_size
    if header.sounds + header.subtitles > size or not all(warnings):
        raise Fault(f"{header}")
    timing = FilmTiming(header.sounds, 25.0, is_exact=header.counts_frames)
    timing.see(0.0)
    timing.end()
    if not isinstance(timing.fault + timing.warning, str):
        raise Fault("no text")


READER = Reader(_seeds, _mutate, _read)
