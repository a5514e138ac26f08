"""What people have: files of many programs, grey and linear pictures, tiny ones, mixed folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import pyvips
from PIL import Image

from _support.bad_pictures import BAD
from _support.photo_files import (
    Write,
    by_opencv,
    by_pillow,
    by_tifffile,
    by_vips,
    curve,
    jpeg_with,
    light_of,
    parametric,
    photograph,
    png_with,
    profile_with,
)
from _support.pictures import files
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime import Upscaler, upscale
from adadm.runtime.cli import run
from adadm.runtime.images.arrays import Pixels, enlarge, reduce
from adadm.runtime.upscaling.tile_plan import Tile


def adadm(*arguments: str | Path) -> int:
    options = [str(argument) for argument in arguments]
    return run("adadm upscale", upscale.main, [*options, "--backend", "cpu"])


def read(path: Path) -> npt.NDArray[np.int64]:
    if path.suffix == ".bmp":
        return np.asarray(Image.open(path)).astype(np.int64)
    image = pyvips.Image.new_from_file(str(path))
    found: npt.NDArray[np.int64] = image.numpy().astype(np.int64)
    return found


# A file in a mixed folder, its result, and the largest mean difference from the photograph's.
READ: list[tuple[str, Write, str, float]] = [
    ("pillow.png", by_pillow(), "pillow.png", 0),
    ("opencv.png", by_opencv(), "opencv.png", 0),
    ("opencv16.png", by_opencv(16), "opencv16.png", 0.26),
    ("vips16.png", by_vips("pngsave", bits=16), "vips16.png", 0.26),
    ("tifffile.tif", by_tifffile(), "tifffile.tif", 0),
    ("tifffile16.tif", by_tifffile(bits=16), "tifffile16.tif", 0.26),
    ("zlib.tiff", by_tifffile(compression="zlib", predictor=True), "zlib.tiff", 0),
    ("tiles.tif", by_tifffile(tile=(16, 16)), "tiles.tif", 0),
    ("big.tif", by_tifffile(bigtiff=True, byteorder=">"), "big.tif", 0),
    ("a.jfif", by_pillow(format="JPEG", quality=98, subsampling=0), "a.jfif", 3),
    ("a.jpe", by_pillow(format="JPEG", quality=98, subsampling=0), "a.jpe", 3),
    ("a.avif", by_pillow(quality=100, subsampling="4:4:4"), "a.avif", 4),
    ("ten.avif", by_vips("heifsave", bits=16, compression="av1", Q=99), "ten.avif", 4),
    ("a.gif", by_pillow(), "a.gif.png", 12),
    ("a.mpo", by_pillow(others=1, quality=98, subsampling=0), "a.mpo.jpg", 3),
    ("a.bmp", by_opencv(), "a.bmp", 0),
    ("a.webp", by_pillow(lossless=True), "a.webp", 4),
    ("a PNG.jpg", by_pillow(format="PNG"), "a PNG.jpg", 3),
    ("animated.png", by_pillow(others=2), "animated.png", 0),
    ("pages.tif", by_tifffile(3), "pages.tif", 0),
    ("pq.png", png_with((b"cICP", bytes([9, 16, 0, 1]))), "pq.png", 0),
    ("prophoto.png", by_pillow(icc_profile=profile_with(parametric(0, 1.8))), "prophoto.png", 0),
    ("hdr.jpg", jpeg_with(2, b"urn:iso:std:iso:ts:21496:-1\0"), "hdr.jpg", 6),
]


def test_a_mixed_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in", tmp_path / "in" / "out"
    target.mkdir(parents=True)
    for name, write, *_ in READ:
        write(source / name)
    by_pillow()(target / "earlier.png")
    for name in ("a.heic", "b.heic", "c.dng", "film.mp4", "notes"):
        (source / name).write_bytes(b"others")
    assert adadm(source, "-o", target, "--format", "png", "--dry-run") == 1  # a.jpe and a.jfif
    capsys.readouterr()
    assert adadm(source, "-o", target) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"{target}: {len(READ)} done, 0 skipped, 0 failed",
        "passed over: 2 .heic, 1 .dng, 1 .mp4, 1 without suffix",
        f"left out: 1 earlier results, in {target}",
    ]
    for name, note in (
        ("animated.png", "3 pictures (APNG)"),
        ("pages.tif", "3 pictures (TIFF)"),
        ("a.mpo", "2 pictures (MPO)"),
        ("hdr.jpg", "its gain map (Ultra HDR) is left out"),
    ):
        assert f"{source / name}: WARNING: {note}" in captured.err
    assert captured.err.count("WARNING") == 4
    with Upscaler("x2", backend="cpu", tile="off") as opened:
        expected = opened.upscale(photograph()).astype(np.int64)
    for _, _, result, tolerance in READ:
        found = read(target / result)[..., :3].astype(np.float64)
        found /= 257 if found.max() > 255 else 1
        assert np.abs(found - expected).mean() <= tolerance, result
    assert files(target) == sorted([*(row[2] for row in READ), "earlier.png"])


def test_no_bad_picture_stops_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    for name in ("a.png", "m.jpg", "z.avif"):  # before, among and after them
        (source / name).parent.mkdir(exist_ok=True)
        by_pillow()(source / name)
    for name, content in BAD.items():
        (source / name).write_bytes(content)
    assert adadm(source, "-o", tmp_path / "out", "--compare", tmp_path / "both") == 1
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out'}: 3 done, 0 skipped, {len(BAD)} failed\n"
    assert files(tmp_path / "out") == ["a.png", "m.jpg", "z.avif"]
    reasons = captured.err[captured.err.index(f"{len(BAD)} of {len(BAD) + 3} images failed:") :]
    for name in BAD:
        assert reasons.count(f"\n  {source / name}") == 1, name
    assert "Traceback" not in captured.err


def test_a_linear_photograph_is_upscaled_as_well_as_that_of_srgb(tmp_path: Path) -> None:
    hr = photographs(("coffee",))["coffee"][80:200, 200:360]
    lr = reduce(hr, 2)
    linear = np.rint(65535 * light_of(lr / 255)).astype(np.uint16)
    image = pyvips.Image.new_from_array(linear).copy(interpretation="rgb16")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile_with(curve()))
    image.write_to_file(str(tmp_path / "a.tif"))
    assert adadm(tmp_path / "a.tif", "-o", tmp_path / "b.tif") == 0
    with Upscaler("x2", backend="cpu", tile="off") as opened:
        right = opened.upscale(lr.astype(np.uint16) * 257) / 65535
        wrong = opened.upscale(linear) / 65535
    found = read(tmp_path / "b.tif") / 65535
    assert np.abs(found - light_of(right)).max() < 1e-3
    assert np.abs(wrong - light_of(right)).max() > 0.02


# Grey


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("options", ["--tile off", "--tile 24 --passes 1"])
def test_grey_in_three_channels_stays_grey(tmp_path: Path, options: str, dtype: type) -> None:
    grey = np.asarray(Image.fromarray(photographs(("rocket",))["rocket"]).convert("L"))
    levels = np.iinfo(dtype).max // 255
    coloured: Pixels = (grey[100:130, 200:240, None].astype(dtype) * levels).repeat(3, axis=2)
    kind = "srgb" if dtype == np.uint8 else "rgb16"
    for name, image in (("grey.png", coloured), ("nearly.png", coloured.copy())):
        if name == "nearly.png":
            image[-1, -1, 0] ^= 1
        saved = pyvips.Image.new_from_array(image).copy(interpretation=kind)
        saved.write_to_file(str(tmp_path / name))
        assert adadm(tmp_path / name, "-o", tmp_path / "out", *options.split()) == 0
    found, nearly = (read(tmp_path / "out" / name) for name in ("grey.png", "nearly.png"))
    assert found.shape == nearly.shape == (60, 80, 3)
    assert (found == found[..., :1]).all()
    assert not (nearly == nearly[..., :1]).all()
    assert np.abs(found - nearly.mean(axis=2, keepdims=True)).max() <= np.iinfo(dtype).max / 200


def test_a_grey_array_stays_grey() -> None:
    grey = photograph()[..., :1].repeat(3, axis=2)
    with Upscaler("x2", backend="cpu") as opened:
        found = opened.upscale(grey)
    assert (found == found[..., :1]).all()


# Tiny pictures, which the network alone gets wrong by up to 130 levels


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 1), (2, 3), (7, 5), (7, 40), (4, 400)])
@pytest.mark.parametrize(("model", "factor"), [("x2", 2), ("x4", 4)])
def test_a_flat_tiny_picture_stays_flat(model: str, factor: int, size: tuple[int, int]) -> None:
    image: Pixels = np.zeros((*size, 3), np.uint8) + np.array([200, 90, 30], np.uint8)
    tile: Tile = 64 if max(size) > 64 else "auto"
    with Upscaler(model, backend="cpu", tile=tile, passes=1) as opened:
        found = opened.upscale(image)
    assert found.shape == (factor * size[0], factor * size[1], 3)
    assert np.abs(found.astype(int) - image[:1, :1]).max() <= 1


@pytest.mark.parametrize("size", [(1, 64), (3, 40), (5, 5)])
def test_tiny_pieces_of_photographs_are_no_worse_than_bicubic(size: tuple[int, int]) -> None:
    height, width = 2 * size[0], 2 * size[1]
    errors = []
    with Upscaler("x2", backend="cpu") as opened:
        for name, photo in photographs().items():
            hr = photo[90 : 90 + height, 110 : 110 + width].astype(int)
            lr = reduce(hr.astype(np.uint8), 2)
            found = [np.mean((opened.upscale(lr) - hr) ** 2), np.mean((enlarge(lr, 2) - hr) ** 2)]
            errors.append(found)
            assert found[0] < 1.5 * found[1] + 4, name
    assert np.mean(errors, axis=0)[0] < np.mean(errors, axis=0)[1]


def test_a_tiny_picture_with_alpha(tmp_path: Path) -> None:
    image = np.dstack([photograph()[:5, :20], np.full((5, 20), 255, np.uint8)])
    image[:, 10:, 3] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    assert adadm(tmp_path / "a.png", "-o", tmp_path / "b.png") == 0
    found = read(tmp_path / "b.png")
    assert found.shape == (10, 40, 4)
    assert (found[:, :18, 3] == 255).all() and (found[:, 22:, 3] == 0).all()
