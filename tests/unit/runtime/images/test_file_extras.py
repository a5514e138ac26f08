"""What a file holds beside its first picture: left out and said, or kept."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from PIL import Image

from _support.photo_files import (
    Write,
    by_opencv,
    by_pillow,
    by_tifffile,
    by_vips,
    jpeg_with,
    parametric,
    photograph,
    png_with,
    profile_with,
    pyramid,
)
from adadm.runtime.errors import ImageError
from adadm.runtime.images.photo_reader import open_photo, read_size
from adadm.runtime.images.photo_writer import PhotoWriter
from adadm.runtime.images.png_chunks import read_chunks

XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'>%s</x:xmpmeta>"
GAMMA, LINEAR = struct.pack(">I", 45455), struct.pack(">I", 100_000)
SRGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
WIDE = struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)
DARKER, LINEAR_2020 = struct.pack(">I", 38462), bytes([9, 8, 0, 1])
PQ, HLG = bytes([9, 16, 0, 1]), bytes([9, 18, 0, 1])

NOTED: list[tuple[str, Write, str]] = [
    ("one.png", by_pillow(), ""),
    ("one.gif", by_pillow(), ""),
    ("one.tif", by_tifffile(), ""),
    ("one.avif", by_pillow(), ""),
    ("animated.png", by_pillow(others=2), "3 pictures (APNG), of which the first"),
    ("animated.webp", by_pillow(others=3, lossless=True), "4 pictures (WebP)"),
    ("animated.gif", by_pillow(others=1), "2 pictures (GIF)"),
    ("animated.avif", by_pillow(others=2), "3 pictures (animated AVIF)"),
    ("pages.tif", by_pillow(others=4), "5 pictures (TIFF)"),
    ("pages of tifffile.tif", by_tifffile(3), "3 pictures (TIFF)"),
    ("pages of bigtiff.tif", by_tifffile(2, bigtiff=True), "2 pictures (TIFF)"),
    ("pyramid.tif", pyramid, ""),
    ("stereo.mpo", by_pillow(others=1), "2 pictures (MPO)"),
    ("stereo.jpg", by_pillow(others=2, format="MPO"), "3 pictures (MPO)"),
    ("adobe.jpg", jpeg_with(1, XMP % b"<d hdrgm:Version='1.0'/>"), "its gain map (Ultra HDR)"),
    ("google.jpg", jpeg_with(1, XMP % b"<d Item:Semantic='GainMap'/>"), "gain map"),
    ("iso.jpg", jpeg_with(2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"), "gain map"),
    ("motion.jpg", jpeg_with(1, XMP % b"<d GCamera:MotionPhoto='1'/>", b"ftypmp42"), "its film"),
    ("still.jpg", jpeg_with(1, XMP % b"<d GCamera:MotionPhoto='0'/>"), ""),
    ("damaged EXIF.jpg", jpeg_with(1, b"Exif\0\0II*\0\xff"), ""),
    ("cut index.jpg", jpeg_with(2, b"MPF\0II*\0\x08\0\0\0\x03"), ""),
]


@pytest.mark.parametrize(("name", "write", "note"), NOTED, ids=[row[0] for row in NOTED])
def test_what_is_left_out_is_noted(tmp_path: Path, name: str, write: Write, note: str) -> None:
    write(tmp_path / name)
    photo = open_photo(tmp_path / name)
    assert [note in found for found in photo.extras.notes] == [True] * bool(note)
    assert (photo.height, photo.width) == read_size(photo.path) == photograph().shape[:2]


KEPT: list[tuple[str, Write, dict[bytes, bytes], str]] = [
    ("plain.png", by_pillow(), {}, ""),
    ("pq.png", png_with((b"cICP", PQ)), {b"cICP": PQ}, "BT.2020, PQ"),
    ("hlg.png", png_with((b"cICP", HLG), (b"gAMA", GAMMA)), {b"cICP": HLG, b"gAMA": GAMMA}, "HLG"),
    ("srgb.png", png_with((b"sRGB", b"\0")), {b"sRGB": b"\0"}, ""),
    ("usual.png", png_with((b"gAMA", GAMMA), (b"cHRM", SRGB)), {b"gAMA": GAMMA, b"cHRM": SRGB}, ""),
    ("linear.png", png_with((b"gAMA", LINEAR)), {b"gAMA": LINEAR}, ""),
    ("darker.png", png_with((b"gAMA", DARKER)), {b"gAMA": DARKER}, "gAMA 0.38462"),
    ("linear wide.png", png_with((b"gAMA", LINEAR), (b"cHRM", WIDE)), {b"cHRM": WIDE}, "(cHRM)"),
    ("linear 2020.png", png_with((b"cICP", LINEAR_2020)), {b"cICP": LINEAR_2020}, "(BT.2020)"),
    ("wide.png", png_with((b"gAMA", GAMMA), (b"cHRM", WIDE)), {b"cHRM": WIDE}, "cHRM"),
    ("profile.png", by_pillow(icc_profile=profile_with(parametric(0, 2.2))), {}, ""),
]


@pytest.mark.parametrize(("name", "write", "chunks", "said"), KEPT, ids=[row[0] for row in KEPT])
def test_colours_of_a_png_are_kept_in_png_and_said_elsewhere(
    tmp_path: Path, name: str, write: Write, chunks: dict[bytes, bytes], said: str
) -> None:
    write(tmp_path / name)
    photo = open_photo(tmp_path / name)
    with PhotoWriter(tmp_path / "b.png", photo, upscale=1) as writer:
        writer.write(photo.colour(0, 0, photo.height, photo.width))
    assert writer.notes == ()
    assert chunks.items() <= read_chunks(tmp_path / "b.png").items()
    for suffix in (".jpg", ".webp", ".tif", ".avif", ".bmp"):
        notes = PhotoWriter(tmp_path / f"b{suffix}", photo, upscale=1).notes
        assert [said in note for note in notes] == [True] * bool(said)


def test_colours_of_an_avif_are_named_in_a_png(tmp_path: Path) -> None:
    by_pillow()(tmp_path / "a.avif")
    coded = (tmp_path / "a.avif").read_bytes()
    at = coded.index(b"colrnclx") + 8
    (tmp_path / "a.avif").write_bytes(coded[:at] + struct.pack(">HH", 9, 16) + coded[at + 4 :])
    photo = open_photo(tmp_path / "a.avif")
    with PhotoWriter(tmp_path / "b.png", photo, upscale=1) as writer:
        writer.write(photo.colour(0, 0, photo.height, photo.width))
    assert read_chunks(tmp_path / "b.png")[b"cICP"] == PQ
    assert "BT.2020, PQ" in PhotoWriter(tmp_path / "b.avif", photo, upscale=1).notes[0]


# Neither an EXIF nor a resolution is made.
BARE: list[tuple[str, Write]] = [
    ("a.png", by_pillow()),
    ("a16.png", by_opencv(16)),
    ("a.jpg", by_pillow()),
    ("a.webp", by_pillow()),
    ("a.avif", by_vips("heifsave", compression="av1", keep="none")),
]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".bmp"])
@pytest.mark.parametrize(("name", "write"), BARE, ids=[row[0] for row in BARE])
def test_nothing_is_made_that_was_not_there(
    tmp_path: Path, name: str, write: Write, suffix: str
) -> None:
    write(tmp_path / name)
    photo = open_photo(tmp_path / name)
    assert photo.resolution is None
    with PhotoWriter(tmp_path / f"b{suffix}", photo, upscale=1) as writer:
        writer.write(photo.colour(0, 0, photo.height, photo.width))
    written = open_photo(tmp_path / f"b{suffix}")
    assert written.resolution is None
    assert not [name for name in written.metadata if name.startswith("exif")]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("source", ["a.png", "a.jpg", "a.webp", "a.avif"])
def test_an_exif_without_resolution_gets_the_72_dpi_of_its_standard(
    tmp_path: Path, source: str, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x10F] = "Maker"
    Image.fromarray(photograph()).save(tmp_path / source, exif=exif)
    photo = open_photo(tmp_path / source)
    assert photo.resolution is None
    with PhotoWriter(tmp_path / f"b{suffix}", photo, upscale=1) as writer:
        writer.write(photo.colour(0, 0, photo.height, photo.width))
    with Image.open(tmp_path / f"b{suffix}") as written:
        tags = written.getexif()
    assert tags[0x10F] == "Maker" and tags[0x11A] == pytest.approx(72, abs=0.02)
    assert suffix != ".png" or b"pHYs" not in read_chunks(tmp_path / "b.png")


REFUSED = [
    ("raw.dng", by_tifffile(extratags=[(50706, 1, 4, b"\1\4\0\0", True)]), "a camera's raw data"),
    ("raw.nef", by_tifffile(subfiletype=1), "raw data with a preview; develop it"),
    ("raw.cr2", lambda path: path.write_bytes(b"II*\0\x10\0\0\0CR\2\0" + bytes(60)), "raw data"),
    ("a.jxl", lambda path: path.write_bytes(b"\xff\x0a" + bytes(60)), "no decoder of JPEG XL"),
    ("a.jp2", lambda path: path.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n"), "of JPEG 2000; convert"),
    ("a.avif", lambda path: path.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(60)), "not a PNG"),
]


@pytest.mark.parametrize(("name", "write", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_no_picture_here_is_refused(
    tmp_path: Path, name: str, write: Write, message: str
) -> None:
    write(tmp_path / name)
    for read in (open_photo, read_size):
        with pytest.raises(ImageError, match=message):
            read(tmp_path / name)
