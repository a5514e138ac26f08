"""Pixels are compared with Pillow's, and 16 bit colour, which Pillow lacks, with numpy's."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pyvips
from PIL import Image, ImageCms, ImageOps

from _support.file_size_limit import files_at_most
from _support.pictures import bomb_png, open_files, smooth
from _support.waiting import within_time
from adadm.runtime.errors import ImageError, MissingDependencyError
from adadm.runtime.images import photo_reader as photos
from adadm.runtime.images import photo_writer, vips
from adadm.runtime.images.arrays import Pixels
from adadm.runtime.images.photo_reader import Photo, open_photo
from adadm.runtime.images.photo_writer import PhotoWriter
from adadm.runtime.images.png_chunks import png_chunk

SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".bmp")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><note>\xc3\xa9</note></x:xmpmeta>'


def picture(height: int = 29, width: int = 37, channels: int = 3, seed: int = 0) -> Image.Image:
    return Image.fromarray(smooth(height, width, channels, seed))


def noise(*shape: int, dtype: type[np.unsignedinteger[Any]] = np.uint16) -> Pixels:
    values = np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, shape, dtype)
    values[0, 0], values[-1, -1] = 0, np.iinfo(dtype).max
    return values


def save_vips(path: Path, pixels: npt.NDArray[Any], **options: Any) -> None:
    kinds = {(1, 1): "b-w", (1, 2): "grey16", (3, 1): "srgb", (3, 2): "rgb16"}
    kind = kinds[1 if pixels.shape[2] < 3 else 3, pixels.dtype.itemsize]
    image = pyvips.Image.new_from_array(pixels).copy(interpretation=kind)
    image.write_to_file(str(path), **options)


def read_vips(path: Path) -> npt.NDArray[Any]:
    image = pyvips.Image.new_from_file(str(path))
    array: npt.NDArray[Any] = image.numpy().reshape(image.height, image.width, image.bands)
    return array


def pillow(path: Path, mode: str) -> npt.NDArray[np.uint8]:
    with Image.open(path) as opened:
        return np.asarray(opened.convert(mode))


def rgb(photo: Photo) -> Pixels:
    return photo.colour(0, 0, photo.height, photo.width)


def rgba(photo: Photo) -> Pixels:
    alpha = photo.alpha(0, 0, photo.height, photo.width)
    return np.concatenate([rgb(photo), alpha[..., :1]], axis=2)


def rows_of(photo: Photo, upscale: int = 1, step: int = 7) -> Iterator[Pixels]:
    """What `PhotoWriter.write` takes: each pixel repeated, alpha beside colour."""
    for top in range(0, photo.height, step):
        height = min(step, photo.height - top)
        rows = photo.colour(top, 0, height, photo.width)[..., : 1 if photo.is_grey else 3]
        if photo.has_alpha:
            rows = np.concatenate([rows, photo.alpha(top, 0, height, photo.width)[..., :1]], 2)
        yield rows.repeat(upscale, axis=0).repeat(upscale, axis=1)


def rewrite(source: Path, target: Path, upscale: int = 1, step: int = 7, **options: Any) -> None:
    photo = open_photo(source)
    with PhotoWriter(target, photo, upscale=upscale, **options) as writer:
        for rows in rows_of(photo, upscale, step):
            writer.write(rows)
    photo.close()


@pytest.fixture
def photo(tmp_path: Path) -> Photo:
    """`picture()` as a.png."""
    picture().save(tmp_path / "a.png")
    return open_photo(tmp_path / "a.png")


# Reading: name, mode of the picture, options of Pillow's save, grey, alpha.
FILES = [
    ("1.png", "1", {}, True, False),
    ("grey.png", "L", {}, True, False),
    ("grey with one transparent.png", "L", {"transparency": 100}, True, True),
    ("grey with alpha.png", "LA", {}, True, True),
    ("palette.png", "P", {}, False, False),
    ("palette with transparency.png", "P", {"transparency": bytes(range(256))}, False, True),
    ("rgb.png", "RGB", {}, False, False),
    ("rgba.png", "RGBA", {}, False, True),
    ("interlaced.gif.png", "RGB", {}, False, False),
    ("grey.jpg", "L", {"quality": 95}, True, False),
    ("rgb.jpg", "RGB", {"quality": 95}, False, False),
    ("progressive.jpeg", "RGB", {"quality": 95, "progressive": True}, False, False),
    ("rgb.webp", "RGB", {"lossless": True}, False, False),
    ("rgba.webp", "RGBA", {"lossless": True, "exact": True}, False, True),
    ("1.tif", "1", {}, True, False),
    ("fax.tif", "1", {"compression": "group4"}, True, False),
    ("grey.tif", "L", {}, True, False),
    ("palette.tif", "P", {}, False, False),
    ("rgb.tiff", "RGB", {"compression": "tiff_lzw"}, False, False),
    ("rgba.tif", "RGBA", {"compression": "tiff_deflate"}, False, True),
    ("1.bmp", "1", {}, True, False),
    ("grey.bmp", "L", {}, True, False),
    ("palette.bmp", "P", {}, False, False),
    ("rgb.bmp", "RGB", {}, False, False),
    ("ünï cödé [page=3] 写真.png", "RGB", {}, False, False),
    (os.fsdecode(b"not utf-8 \xff.png"), "RGB", {}, False, False),
    ("a PNG by content.jpg", "RGB", {"format": "PNG"}, False, False),
]


@pytest.mark.parametrize(("name", "mode", "options", "grey", "alpha"), FILES)
def test_every_kind_is_read_as_pillow_reads_it(
    tmp_path: Path, name: str, mode: str, options: dict[str, Any], grey: bool, alpha: bool
) -> None:
    path = tmp_path / name
    picture(channels=4 if mode.endswith("A") else 3).convert(mode).save(path, **options)
    photo = open_photo(path)
    assert photo.path == path
    assert (photo.width, photo.height) == (37, 29)
    assert (photo.is_grey, photo.has_alpha, photo.dtype.name) == (grey, alpha, "uint8")
    expected = pillow(path, "RGBA" if alpha else "RGB")
    found = rgba(photo) if alpha else rgb(photo)
    assert found.dtype == np.uint8
    # decoders of JPEG may differ by a rounding
    tolerance = 2 if b"JFIF" in path.read_bytes() else 0
    assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_stay_16_bits(tmp_path: Path, channels: int, suffix: str) -> None:
    values = noise(9, 11, channels)
    save_vips(tmp_path / f"a{suffix}", values)
    photo = open_photo(tmp_path / f"a{suffix}")
    assert photo.dtype == np.uint16
    colour = values[..., : 1 if channels < 3 else 3]
    np.testing.assert_array_equal(rgb(photo), np.broadcast_to(colour, (9, 11, 3)))
    if photo.has_alpha:
        np.testing.assert_array_equal(rgba(photo)[..., 3], values[..., -1])
    rewrite(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", upscale=2)
    np.testing.assert_array_equal(
        read_vips(tmp_path / f"b{suffix}"), values.repeat(2, axis=0).repeat(2, axis=1)
    )
    if channels == 1:  # all that Pillow has of 16 bits
        with Image.open(tmp_path / f"b{suffix}") as written:
            np.testing.assert_array_equal(np.asarray(written)[::2, ::2], values[..., 0])


def test_regions(photo: Photo) -> None:
    expected = np.asarray(picture())
    np.testing.assert_array_equal(photo.colour(3, 5, 7, 11), expected[3:10, 5:16])
    np.testing.assert_array_equal(photo.colour(28, 36, 1, 1), expected[28:, 36:])
    for region in ((-1, 0, 2, 2), (0, 36, 1, 2), (28, 0, 2, 1), (0, 0, 0, 1)):
        with pytest.raises(IndexError, match="of a photo of 37x29"):
            photo.colour(*region)
    with pytest.raises(ValueError, match="has no alpha"):
        photo.alpha(0, 0, 1, 1)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda top: photo.colour(top, 1, 5, 30), list(range(24)) * 4):
            top = next(t for t in range(24) if (expected[t, 1:31] == found[0]).all())
            np.testing.assert_array_equal(found, expected[top : top + 5, 1:31])


# What turns the stored pixels upright, for the values of the tag that TIFF 6.0 defines.
UPRIGHT: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
ORIENTATION, MAKE, EXIF_IFD, TAKEN = 0x112, 0x10F, 0x8769, 0x9003


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[MAKE] = "Maker & Sons"
    exif.get_ifd(EXIF_IFD)[TAKEN] = "2023:04:05 06:07:08"
    return exif


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_orientation_is_applied_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    lossless = {".webp": {"lossless": True}, ".jpg": {"quality": 95, "subsampling": 0}}
    exif = exif_with(orientation)
    picture().save(source, exif=exif, **lossless.get(suffix, {}))  # type: ignore[arg-type]
    # Pillow turns TIFF, and no other, by itself
    stored = pillow(source, "RGB") if suffix == ".jpg" else np.asarray(picture())
    expected = UPRIGHT[orientation](stored)
    photo = open_photo(source)
    assert (photo.height, photo.width) == expected.shape[:2]
    assert np.abs(rgb(photo).astype(int) - expected).max() <= (2 if suffix == ".jpg" else 0)
    np.testing.assert_array_equal(photo.colour(2, 3, 20, 21), rgb(photo)[2:22, 3:24])
    rewrite(source, target, upscale=2)
    with Image.open(target) as written:
        assert written.size == (2 * photo.width, 2 * photo.height)
        assert ImageOps.exif_transpose(written).size == written.size
        if suffix != ".tif":  # libvips writes no EXIF there
            assert written.getexif()[MAKE] == exif[MAKE]
            assert written.getexif().get_ifd(EXIF_IFD)[TAKEN] == "2023:04:05 06:07:08"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_profile_xmp_and_resolution_are_kept(tmp_path: Path, suffix: str, mode: str) -> None:
    grey = mode.startswith("L")
    profile = pyvips.Operation.call("profile_load", "sgrey") if grey else SRGB
    source = pyvips.Image.new_from_array(np.asarray(picture().convert(mode)))
    source = source.copy(interpretation="b-w" if grey else "srgb", xres=11.811, yres=5.9055)
    source.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    source.set_type(pyvips.GValue.blob_type, "xmp-data", XMP)
    source.write_to_file(str(tmp_path / "a.png"))
    rewrite(tmp_path / "a.png", tmp_path / f"b{suffix}")
    with Image.open(tmp_path / f"b{suffix}") as written:
        if not (grey and suffix == ".webp"):  # WebP has no grey, so a grey profile would be wrong
            assert written.info["icc_profile"] == profile
        # of PNG, Pillow expects another chunk than libvips writes, and does not decode it
        xmp = written.info.get("xmp") or written.info["XML:com.adobe.xmp"].encode("latin-1")
        assert xmp == XMP
        exif = written.getexif()
        assert [exif[0x11A], exif[0x11B]] == pytest.approx([300, 150], rel=1e-3)
    photo = open_photo(tmp_path / f"b{suffix}")
    assert photo.resolution == pytest.approx((11.811, 5.9055), rel=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source", ["a.png", "a.jpg", "a.tif", "a.bmp"])
def test_resolution_without_exif_is_kept(tmp_path: Path, source: str, suffix: str) -> None:
    picture().save(tmp_path / source, dpi=(300, 300))
    rewrite(tmp_path / source, tmp_path / f"b{suffix}")
    resolution = open_photo(tmp_path / f"b{suffix}").resolution
    assert resolution is not None
    dpi = [25.4 * dots for dots in resolution]
    assert dpi == pytest.approx([300, 300], rel=1e-3)


def test_a_thumbnail_is_dropped(tmp_path: Path) -> None:
    """It would show the photo before its turning, or before its enlarging."""
    thumbnail = io.BytesIO()
    picture(12, 16).save(thumbnail, "JPEG")
    jpeg = thumbnail.getvalue()
    tags = [(0x103, 3, 1, 6), (0x201, 4, 1, 14 + 2 + 36 + 4), (0x202, 4, 1, len(jpeg))]
    ifd1 = struct.pack("<H", 3) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = b"Exif\0\0II*\0" + struct.pack("<IHI", 8, 0, 14)
    picture().save(tmp_path / "a.jpg", exif=header + ifd1 + bytes(4) + jpeg)
    assert (tmp_path / "a.jpg").read_bytes().count(b"\xff\xd8\xff") == 2
    rewrite(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert (tmp_path / "b.jpg").read_bytes().count(b"\xff\xd8\xff") == 1


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize("embedded", [True, False])
def test_cmyk_becomes_srgb(tmp_path: Path, suffix: str, embedded: bool) -> None:
    profile: bytes = pyvips.Operation.call("profile_load", "cmyk")
    cmyk = picture(channels=4).convert("CMYK")
    path = tmp_path / f"a{suffix}"
    cmyk.save(path, icc_profile=profile if embedded else None, quality=100, subsampling=0)
    with Image.open(path) as opened:
        expected = ImageCms.profileToProfile(
            opened,
            io.BytesIO(profile),
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    photo = open_photo(path)
    assert not photo.is_grey and not photo.has_alpha
    assert np.abs(rgb(photo).astype(int) - np.asarray(expected)).max() <= 3
    rewrite(path, tmp_path / f"b{suffix}")
    with Image.open(tmp_path / f"b{suffix}") as written:
        assert written.mode == "RGB"
        assert (
            b"sRGB" in written.info["icc_profile"] or b"s\0R\0G\0B" in written.info["icc_profile"]
        )


def test_premultiplied_alpha_becomes_straight(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 4), np.uint8)
    values[...] = (200, 100, 0, 128)
    save_vips(tmp_path / "a.tif", values, premultiply=True)
    assert np.abs(rgba(open_photo(tmp_path / "a.tif")).astype(int) - values).max() <= 1


@pytest.mark.parametrize("tiled", [True, False])
def test_of_several_pages_the_first_is_read(tmp_path: Path, tiled: bool) -> None:
    pages = [np.asarray(picture(32, 32, seed=seed)) for seed in range(3)]
    tall = pyvips.Image.new_from_array(np.concatenate(pages)).copy(interpretation="srgb")
    tall.tiffsave(str(tmp_path / "a.tif"), page_height=32, tile=tiled)
    np.testing.assert_array_equal(rgb(open_photo(tmp_path / "a.tif")), pages[0])
    frames = [Image.fromarray(page) for page in pages]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(rgb(open_photo(tmp_path / "a.webp")), pages[0])


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_images_lie_on_disk_until_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    picture().save(tmp_path / "a.png", exif=exif_with(orientation))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(photos, "_MOST_IN_MEMORY_BYTES", 0)
    photo = open_photo(tmp_path / "a.png")
    assert open_files(tmp_path) == 1
    np.testing.assert_array_equal(rgb(photo), UPRIGHT[orientation](np.asarray(picture())))
    photo.close()
    assert open_files(tmp_path) == 0
    assert os.listdir(tmp_path) == ["a.png"]
    with files_at_most(100), pytest.raises(ImageError, match=r"a\.png: .*too large"):
        open_photo(tmp_path / "a.png")


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    for seed in range(3):
        picture(seed=seed).save(tmp_path / "a.png")
        photo = open_photo(tmp_path / "a.png")
        np.testing.assert_array_equal(rgb(photo), np.asarray(picture(seed=seed)))
        rewrite(tmp_path / "a.png", tmp_path / "a.png", upscale=2)  # onto itself
        assert open_photo(tmp_path / "a.png").width == 74


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(60, 70, 3, dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for kept in (3, 40, len(whole) // 2, len(whole) - 300):
        path.write_bytes(whole[:kept])
        with pytest.raises(ImageError, match=rf"a{suffix}: not a ") as caught:
            open_photo(path)
        assert "\n" not in str(caught.value)


def damaged_png(path: Path) -> None:
    Image.fromarray(noise(60, 70, 3, dtype=np.uint8)).save(path)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(bytes(40))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.jpg", b"no image", r"text\.jpg: not a "),
        ("empty.png", b"", r"empty\.png is empty; copy or download it again"),
        (
            "large.png",
            b"version https://git-lfs.github.com/spec/v1\n",
            r"large\.png is a pointer of",
        ),
        ("page.jpg", b"<!DOCTYPE html><html>", r"page\.jpg is a web page, not the file itself"),
        ("vector.png", b"<?xml version='1.0'?><svg/>", r"vector\.png: not a "),
        ("sound.wav", b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), r"sound\.wav: not a "),
        ("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"vector\.svg: not a "),
        ("damaged.png", damaged_png, "not a readable image"),
        ("folder.png", Path.mkdir, r"not a readable image \(Is a directory\)"),
        ("missing.png", lambda _: None, r"missing\.png: no such file"),
        (
            "float.tif",
            Image.fromarray(np.zeros((4, 5), np.float32)).save,
            r"float\.tif: 1 channels of float .*convert it",
        ),
        (
            "five.tif",
            lambda path: (
                pyvips.Image.black(5, 4, bands=5)
                .copy(interpretation="multiband")
                .write_to_file(str(path))
            ),
            r"five\.tif: 5 channels of uchar",
        ),
    ],
)
def test_what_is_no_image_of_ours_is_refused(
    tmp_path: Path, name: str, content: bytes | Callable[[Path], object], message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(ImageError, match=message):
        open_photo(path)


def test_keywords_of_png_may_be_latin_1(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    text = png_chunk(b"tEXt", "Größe\0grün".encode("latin-1"))
    (tmp_path / "b.png").write_bytes(whole[:33] + text + whole[33:])
    rewrite(tmp_path / "b.png", tmp_path / "c.png")
    np.testing.assert_array_equal(rgb(open_photo(tmp_path / "c.png")), np.asarray(picture()))


def test_a_damaged_file_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"vis\xe9.png")
    damaged_png(path)
    with pytest.raises(ImageError, match="not a readable image"):
        open_photo(path)


def test_bombs_are_refused_by_their_header(photo: Photo, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb_png(50_000, 50_000))
    picture().save(tmp_path / "bomb.bmp")
    with (tmp_path / "bomb.bmp").open("r+b") as file:
        file.seek(18)
        file.write(struct.pack("<ii", 50_000, 50_000))
    for name in ("bomb.png", "bomb.bmp"):
        message = (
            rf"{name}: .* at most 500 megapixels, got 2500 \(50000x50000\);.* --max-megapixels"
        )
        with pytest.raises(ImageError, match=message):
            open_photo(tmp_path / name)
    assert open_photo(photo.path, 37 * 29 / 1e6).width == 37
    with pytest.raises(ImageError, match=r"at most 0\.001072 megapixels"):
        open_photo(photo.path, 0.001072)


def test_limits_of_libraries_are_not_in_the_way(tmp_path: Path, monkeypatch: Any) -> None:
    """Pillow's on pixels, and libpng's of a million on a side."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    bmp = tmp_path / "a.bmp"
    picture().save(bmp)
    assert open_photo(bmp).width == 37
    rewrite(bmp, tmp_path / "b.png")
    save_vips(tmp_path / "wide.png", np.zeros((1, 1_000_001, 1), np.uint8))
    assert open_photo(tmp_path / "wide.png").width == 1_000_001


# Writing: suffix, the modes that Pillow finds for grey, grey with alpha, RGB, RGBA.
WRITTEN = [
    (".png", ("L", "LA", "RGB", "RGBA")),
    (".jpg", ("L", "L", "RGB", "RGB")),
    (".JPEG", ("L", "L", "RGB", "RGB")),
    (".webp", ("RGB", "RGBA", "RGB", "RGBA")),
    (".tif", ("L", "LA", "RGB", "RGBA")),
    (".bmp", ("L", "L", "RGB", "RGB")),
]


def over_white(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    most = np.iinfo(values.dtype).max
    alpha = values[..., 3:] / most
    return values[..., :3] * alpha + most * (1 - alpha)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("suffix", "modes"), WRITTEN)
def test_every_kind_is_written(
    tmp_path: Path, suffix: str, modes: tuple[str, ...], channels: int, depth: int
) -> None:
    values = np.asarray(picture(channels=channels)).reshape(29, 37, channels)
    if depth == 16:
        values = values.astype(np.uint16) * 250 + 700
    save_vips(tmp_path / "a.png", values)
    target = tmp_path / f"b{suffix}"
    rewrite(tmp_path / "a.png", target, upscale=3, step=5)
    keeps_16, has_alpha = suffix in (".png", ".tif"), channels in (2, 4)
    if depth == 8 or not keeps_16:  # of 16 bits Pillow has grey alone
        with Image.open(target) as written:
            assert (written.size, written.mode) == ((111, 87), modes[channels - 1])
    photo = open_photo(target)
    assert (photo.width, photo.height) == (111, 87)
    keeps_alpha = has_alpha and suffix in (".png", ".webp", ".tif")
    assert photo.dtype == (np.uint16 if depth == 16 and keeps_16 else np.uint8)
    assert photo.has_alpha == keeps_alpha
    colour = [0, 0, 0] if channels < 3 else [0, 1, 2]
    expected = values[..., [*colour, channels - 1] if has_alpha else colour]
    if has_alpha and not keeps_alpha:
        expected = over_white(expected)
    if depth == 16 and not keeps_16:
        expected = expected / 257
    found = (rgba(photo) if keeps_alpha else rgb(photo))[1::3, 1::3].astype(float)
    if suffix in (".png", ".tif"):
        np.testing.assert_array_equal(found, expected)
    elif suffix == ".bmp":
        assert np.abs(found - expected).max() <= 0.5 + 1e-9 + (depth == 16) / 514
    else:
        assert np.abs(found - expected).mean() < 4


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_size(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    picture(*size).save(tmp_path / "a.png")
    rewrite(tmp_path / "a.png", tmp_path / f"b é{suffix}", upscale=2, step=1000)
    expected = np.asarray(picture(*size)).repeat(2, axis=0).repeat(2, axis=1)
    found = pillow(tmp_path / f"b é{suffix}", "RGB")
    assert found.shape == expected.shape
    if suffix not in (".jpg", ".webp"):
        np.testing.assert_array_equal(found, expected)
    assert sorted(os.listdir(tmp_path)) == ["a.png", f"b é{suffix}"]


def test_jpeg_keeps_its_chroma_and_takes_a_quality(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 40, 3, dtype=np.uint8)).save(tmp_path / "a.png")
    sizes = []
    for quality in (50, 95):
        rewrite(tmp_path / "a.png", tmp_path / "b.jpg", quality=quality)
        with Image.open(tmp_path / "b.jpg") as written:
            # JPEG's header: one block of each component a unit is 4:4:4
            assert {layer[1:3] for layer in written.layer} == {(1, 1)}  # type: ignore[attr-defined]
        sizes.append((tmp_path / "b.jpg").stat().st_size)
    assert sizes[1] > 2 * sizes[0]
    with pytest.raises(ValueError, match="quality: expected 1 to 100, got 101"):
        PhotoWriter(tmp_path / "b.jpg", open_photo(tmp_path / "a.png"), upscale=1, quality=101)


def test_large_tiffs_are_bigtiffs(
    photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for largest, version in ((37 * 29 * 3, 42), (37 * 29 * 3 - 1, 43)):
        monkeypatch.setattr(photo_writer, "_LARGEST_CLASSIC_TIFF_BYTES", largest)
        rewrite(photo.path, tmp_path / "b.tif")
        assert (tmp_path / "b.tif").read_bytes()[2] == version
    np.testing.assert_array_equal(rgb(open_photo(tmp_path / "b.tif")), np.asarray(picture()))


def test_what_a_format_cannot_hold_is_refused_before_any_row(tmp_path: Path) -> None:
    picture(5000, 1).save(tmp_path / "a.png")
    photo = open_photo(tmp_path / "a.png")
    PhotoWriter(tmp_path / "b.jpg", photo, 13)
    for name, upscale, message in (
        ("b.jpg", 14, r"b\.jpg: expected sides of at most 65500 px \(JPEG\), got 14x70000;"),
        ("b.webp", 4, r"at most 16383 px \(WebP\), got 4x20000; write PNG"),
        ("b.gif", 1, r"b\.gif: expected one of \.png, .*, got '\.gif'"),
    ):
        with pytest.raises(ImageError, match=message):
            PhotoWriter(tmp_path / name, photo, upscale)
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("rows", [1, 20, 29])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_in_the_block_leaves_what_was_there(
    photo: Photo, tmp_path: Path, suffix: str, error: type[BaseException], rows: int
) -> None:
    target = tmp_path / f"b{suffix}"
    target.write_text("old")

    def write() -> None:
        with PhotoWriter(target, photo, upscale=1) as writer:
            writer.write(photo.colour(0, 0, rows, 37))
            raise error("mine")

    with pytest.raises(error, match="mine"):
        within_time(write)
    assert sorted(os.listdir(tmp_path)) == ["a.png", target.name]
    assert target.read_text() == "old"
    assert not [thread for thread in threading.enumerate() if thread.name == "photo encoder"]


def write_on_and_on(photo: Photo, started: list[int]) -> None:
    """More rows than the queue takes: without a look at the encoder, `write` would wait forever."""
    with PhotoWriter(photo.path.with_name("b.png"), photo, upscale=1000) as writer:
        for top in range(29_000):
            started.append(top)
            writer.write(np.zeros((1, 37_000, 3), np.uint8))


def test_an_encoder_that_fails_at_once_is_heard_by_write(
    photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = photo_writer._PNG._replace(options={"compression": "much"})
    monkeypatch.setitem(photo_writer._FORMATS, ".png", broken)
    started: list[int] = []
    with pytest.raises(ImageError, match=r"b\.png: cannot be written"):
        within_time(lambda: write_on_and_on(photo, started))
    assert 0 < len(started) < 100
    assert os.listdir(tmp_path) == ["a.png"]


def test_ctrl_c_while_the_queue_is_full(photo: Photo, tmp_path: Path) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            write_on_and_on(photo, [])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert os.listdir(tmp_path) == ["a.png"]


def test_rows_that_do_not_fit_are_refused(photo: Photo, tmp_path: Path) -> None:
    rows = rgb(photo)
    not_like_it = r"rows of \(29, 37, 3\) uint8 after 0, got"
    for wrong, message in (
        (rows[:, 1:], not_like_it),
        (rows[..., :1], not_like_it),
        (rows.astype(np.uint16), not_like_it),
        (np.concatenate([rows] * 2), not_like_it),
        (rows[:28], "expected 29 rows, got 28"),
    ):
        with (
            pytest.raises(ValueError, match=message),
            PhotoWriter(tmp_path / "b.png", photo, upscale=1) as writer,
        ):
            writer.write(wrong)
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rows_may_lie_in_memory_in_any_order(
    tmp_path: Path, dtype: type[np.unsignedinteger[Any]]
) -> None:
    values = noise(8, 6, 3, dtype=dtype)
    save_vips(tmp_path / "a.png", values)
    photo = open_photo(tmp_path / "a.png")
    mirrored = np.ascontiguousarray(values[:, ::-1])[:, ::-1]
    repeated = np.broadcast_to(values[4], (1, 6, 3))
    with PhotoWriter(tmp_path / "b.png", photo, upscale=1) as writer:
        for rows in (
            np.asfortranarray(values[:2]),
            mirrored[2:4],
            repeated,
            values[5:5],
            values[5:],
        ):
            writer.write(rows)
    np.testing.assert_array_equal(read_vips(tmp_path / "b.png"), values)


def printed_by(program: str, *arguments: Path) -> list[str]:
    """The lines that a process of its own prints, which must print no error."""
    command = [sys.executable, "-c", OPENS + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


OPENS = """
import logging, resource, sys
logging.basicConfig(level=logging.INFO)
import numpy as np
from adadm.runtime.images.png_chunks import png_chunk
from adadm.runtime.images.photo_writer import PhotoWriter
from adadm.runtime.images.photo_reader import open_photo
photo = open_photo(sys.argv[1])
"""
PEAK = """
def grow(suffix, upscale):
    rows = np.random.default_rng(0).integers(0, 256, (50, upscale * photo.width, 3), np.uint8)
    with PhotoWriter(sys.argv[1] + suffix, photo, upscale) as writer:
        for _ in range(upscale * photo.height // 50):
            writer.write(rows)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for suffix in (".png", ".jpg", ".tif"):
    print(suffix, grow(suffix, 2), grow(suffix, 60))
"""
WARNED_OF = """
photo.metadata = {'xmp-data': bytes(100_000)}  # too large for JPEG
with PhotoWriter(sys.argv[2], photo, 1) as writer:
    writer.write(photo.colour(0, 0, 29, 37)[..., :1])
"""


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    picture(200, 20).save(tmp_path / "a.png")  # enlarged 60 times: 41 MiB
    lines = [line.split() for line in printed_by(PEAK, tmp_path / "a.png")]
    assert len(lines) == 3
    for suffix, before_mib, after_mib in lines:
        # the queue and vips' own buffers
        assert int(after_mib) - int(before_mib) < 25, suffix


def test_vips_warnings_are_no_noise(tmp_path: Path) -> None:
    """A profile that does not fit is one: grey pixels with a profile of RGB."""
    source = pyvips.Image.new_from_array(np.asarray(picture().convert("L")))
    source = source.copy(interpretation="b-w")
    source.tiffsave(str(tmp_path / "a.tif"), profile="srgb", keep="none")
    assert printed_by(WARNED_OF, tmp_path / "a.tif", tmp_path / "b.jpg") == []


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_libvips(module: str, extra: str) -> None:
        raise OSError("cannot load library 'libvips.so.42'")

    vips.load_vips.cache_clear()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pyvips", None)
        with pytest.raises(MissingDependencyError, match=r"^pyvips is .*adadm-deploy\[photos\]"):
            open_photo(tmp_path / "a.png")
        patched.setattr(vips, "require", without_libvips)
        with pytest.raises(MissingDependencyError, match=r"^pyvips-binary is not installed"):
            open_photo(tmp_path / "a.png")
