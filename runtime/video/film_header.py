"""What a film holds besides the frames that OpenCV reads, from the header of its file."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

_MOST_BYTES = 16 << 20
_HD_ROWS = 720

# Handlers of MP4 and MOV; codecs of Matroska and WebM; streams of AVI.
_HANDLERS = re.compile(rb"hdlr.{8}(soun|sbtl|subt|text|clcp)", re.DOTALL)
_CODECS = re.compile(rb"\x86[\x81-\xff](A|S)_[A-Z]")
_STREAMS = re.compile(rb"strh.{4}(auds|txts)", re.DOTALL)
_SOUND = {b"soun", b"A", b"auds"}

# ITU-T H.273: primaries, transfer and matrix.
_ISO_COLOURS = re.compile(rb"colrncl[xc](..)(..)(..)", re.DOTALL)
_MATRIX, _TRANSFER = (
    re.compile(rb"\x55\xb1\x81(.)", re.DOTALL),
    re.compile(rb"\x55\xba\x81(.)", re.DOTALL),
)
_BT2020_MATRICES, _HDR_TRANSFERS = (9, 10), {16: "PQ", 18: "HLG"}


class FilmHeader(NamedTuple):
    """Streams and colours of a film.

    Attributes:
        counts_frames: True if the file names the exact number of its frames (MP4, MOV).
        is_known: False if the format is not read here; then the rest says nothing.
        sounds, subtitles: numbers of streams.
        matrix, transfer: colours of ITU-T H.273; None if the file has no such tags.
    """

    counts_frames: bool = False
    is_known: bool = False
    sounds: int = 0
    subtitles: int = 0
    matrix: int | None = None
    transfer: int | None = None

    def warnings(self, rows: int, pixel_format: str, *, is_video: bool) -> list[str]:
        """What of the film the results lack, or show otherwise.

        Args:
            rows: height of a frame, px.
            pixel_format: code of OpenCV, of which those of 8 bits have letters and digits alone.
            is_video: True if a video is written.
        """
        found = []
        if is_video and not self.is_known:
            found.append("sound and subtitles, if it has any, are not copied")
        left_out = [
            f"{count} of {what}"
            for count, what in ((self.sounds, "sound"), (self.subtitles, "subtitles"))
            if count
        ]
        if is_video and left_out:
            found.append(f"streams are not copied: {' and '.join(left_out)}")
        if not pixel_format.isalnum():
            found.append("more than 8 bits a channel are rounded to 8")
        if self.matrix in _BT2020_MATRICES or self.transfer in _HDR_TRANSFERS:
            curve = _HDR_TRANSFERS.get(self.transfer or 0, "SDR")
            found.append(
                f"colours of BT.2020 ({curve}) are read as those of sRGB, and come out wrong; "
                "convert the film to BT.709 first"
            )
        elif self.is_known and self.matrix in (None, 2) and rows >= _HD_ROWS:
            found.append(
                "no colour tags in its container: OpenCV then reads BT.601, though HD is BT.709 as "
                "a rule, and colours may be off by up to 29 levels; tag the film"
            )
        if is_video and self.matrix not in (None, 2):
            found.append("its colour tags are not copied")
        return found


def read_film_header(path: str | os.PathLike[str]) -> FilmHeader:
    """Read the header of MP4, MOV, Matroska, WebM or AVI; of others nothing is known.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(12)
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        box = _movie_box(Path(path))
        colours = _ISO_COLOURS.search(box)
        _, transfer, matrix = map(_number, colours.groups()) if colours else (None, None, None)
        return _header(_HANDLERS.findall(box), matrix, transfer)._replace(counts_frames=True)
    with open(path, "rb") as file:
        head = file.read(_MOST_BYTES)
    if start[:4] == b"\x1a\x45\xdf\xa3":
        tracks, _, _ = head.partition(b"\x1f\x43\xb6\x75")  # the first cluster of frames
        matrix, transfer = (
            _number(match[1]) if match else None
            for match in (_MATRIX.search(tracks), _TRANSFER.search(tracks))
        )
        return _header(_CODECS.findall(tracks), matrix, transfer)
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return _header(_STREAMS.findall(head.partition(b"movi")[0]), None, None)
    return FilmHeader()


def _header(streams: list[bytes], matrix: int | None, transfer: int | None) -> FilmHeader:
    sounds = sum(stream in _SOUND for stream in streams)
    others = len(streams) - sounds
    return FilmHeader(
        is_known=True, sounds=sounds, subtitles=others, matrix=matrix, transfer=transfer
    )


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _movie_box(path: Path) -> bytes:
    """The box `moov` of an ISO file, which may stand at its end; empty if there is none."""
    with open(path, "rb") as file:
        at, size = 0, path.stat().st_size
        while at + 8 <= size:
            file.seek(at)
            length, kind, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            length = {0: size - at, 1: long}.get(length, length)
            if kind == b"moov":
                file.seek(at)
                return file.read(min(length, _MOST_BYTES))
            if length < 8:
                break
            at += length
    return b""
