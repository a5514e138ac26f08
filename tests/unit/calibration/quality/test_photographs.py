from __future__ import annotations

import hashlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from _support.bad_pictures import BAD
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.runtime.errors import CalibrationError, ImageError
from adadm.runtime.images.arrays import ImageArray, read_image, reduce, write_image
from adadm.runtime.progress import Progress


def photograph(height: int, width: int, seed: int) -> ImageArray:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(height, width, 3)), axis=0), axis=1)
    image: ImageArray = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten photographs of 70 x 91 px, the last in a folder of its own."""
    for seed in range(10):
        path = tmp_path / "photos" / ("inner" if seed == 9 else "") / f"{seed}.png"
        write_image(path, photograph(70, 91, seed))
    return tmp_path / "photos"


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_first_by_digest_are_chosen_and_reduced(folder: Path) -> None:
    images = CalibrationImages.of([folder], upscale=4, count=3)
    expected = sorted(folder.rglob("*.png"), key=digest_of)[:3]
    chosen = list(images)
    assert [photo.name for photo in chosen] == [path.name for path in expected]
    assert [photo.sha256 for photo in chosen] == [digest_of(path) for path in expected]
    assert len(images) == 3 and images.found == 10
    for photo, path in zip(chosen, expected, strict=True):
        hr = read_image(path)[:68, :88]
        np.testing.assert_array_equal(photo.hr, hr)
        np.testing.assert_array_equal(photo.lr, reduce(hr, 4))
    assert str(images) == "3 of 10 photographs, whole, reduced to 22x17 px"


def test_neither_names_nor_order_nor_copies_matter(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for path in folder.rglob("*.png"):
        target = other / f"z{9 - int(path.stem)}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    first = CalibrationImages.of([folder], upscale=2, count=4)
    for paths in ([other], [other, folder], [folder, other, folder / "3.png"]):
        images = CalibrationImages.of(paths, upscale=2, count=4)
        assert [photo.sha256 for photo in images] == [photo.sha256 for photo in first]
        assert images.digest == first.digest and images.found == 10


def test_the_digest_is_of_contents_factor_and_geometry(folder: Path) -> None:
    choices = [
        CalibrationImages.of([folder], upscale=2, count=4),
        CalibrationImages.of([folder], upscale=2, count=5),
        CalibrationImages.of([folder], upscale=3, count=4),
        CalibrationImages.of([folder], upscale=2, count=4, tile=(16, 20)),
        CalibrationImages.of([folder], upscale=2, count=4, tile=(20, 16)),
    ]
    assert len({images.digest for images in choices}) == len(choices)


def test_tiles_are_the_middle_of_the_reduced_photograph(folder: Path) -> None:
    images = CalibrationImages.of([folder / "4.png"], upscale=2, tile=(17, 20))
    (photo,) = images
    hr = read_image(folder / "4.png")[:70, :90]
    np.testing.assert_array_equal(photo.lr, reduce(hr, 2)[9:26, 12:32])
    np.testing.assert_array_equal(photo.hr, hr[18:52, 24:64])
    assert str(images) == "1 of 1 photographs, tiles from the middle, reduced to 20x17 px"


def test_sizes_that_differ_are_told(folder: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "tall.png", photograph(120, 40, 0))
    images = CalibrationImages.of([folder, tmp_path / "tall.png"], upscale=2)
    assert str(images) == "11 of 11 photographs, whole, reduced to 20x35 to 45x60 px"


def test_an_unusable_one_gives_way_and_is_named(folder: Path) -> None:
    first = min(folder.rglob("*.png"), key=digest_of)
    # the digest of nothing, e3b0c442..., is far from the first and is tried with all
    (folder / "empty.png").write_bytes(b"")
    progress = Mock(spec=Progress)
    images = CalibrationImages.of([folder], upscale=2, progress=progress)
    assert len(images) == 10 and images.found == 11
    (message,) = progress.message.call_args_list
    assert message.args[0].startswith(f"left out: {folder / 'empty.png'}: not a readable image")
    assert next(iter(images)).sha256 == digest_of(first)


def test_what_cannot_be_opened_is_named_too(folder: Path) -> None:
    (folder / "a folder.png").mkdir()
    progress = Mock(spec=Progress)
    assert len(CalibrationImages.of([folder], upscale=2, progress=progress)) == 10
    assert "a folder.png: not a readable image" in progress.message.call_args.args[0]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_left_out_and_no_more(folder: Path, name: str) -> None:
    (folder / name).write_bytes(BAD[name])
    progress = Mock(spec=Progress)
    assert len(CalibrationImages.of([folder], upscale=2, progress=progress)) == 10
    assert progress.message.call_args.args[0].startswith(f"left out: {folder / name}: ")


def test_more_than_a_tenth_is_an_error_that_lists_them(folder: Path) -> None:
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:900])
    write_image(folder / "small.png", photograph(70, 31, 0))
    listed = r"2 of 12 photographs are unusable(.|\n)*(cut|small)\.png(.|\n)*(cut|small)\.png"
    with pytest.raises(CalibrationError, match=listed):
        CalibrationImages.of([folder], upscale=2)
    with pytest.raises(CalibrationError, match=r"small\.png: .* 15x35 px; required"):
        CalibrationImages.of([folder], upscale=2)


def test_too_small_for_the_network_or_for_a_tile(folder: Path) -> None:
    assert len(CalibrationImages.of([folder], upscale=2, smallest_area=35 * 45)) == 10
    with pytest.raises(CalibrationError, match=r"45x35 px; required: .* area of at least 1576 px"):
        CalibrationImages.of([folder], upscale=2, smallest_area=35 * 45 + 1)
    with pytest.raises(CalibrationError, match="45x35 px, smaller than a tile of 30x36 px"):
        CalibrationImages.of([folder], upscale=2, tile=(36, 30))
    with pytest.raises(CalibrationError, match="tile is 40x15 px; required: sides of at least 16"):
        CalibrationImages.of([folder], upscale=2, tile=(15, 40))


def test_without_photographs(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no photographs were given"):
        CalibrationImages.of([], upscale=2)
    with pytest.raises(ImageError, match="expected images"):
        CalibrationImages.of([tmp_path], upscale=2)
    with pytest.raises(ImageError, match="no such file"):
        CalibrationImages.of([tmp_path / "missing"], upscale=2)


def test_no_more_than_one_is_read_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = CalibrationImages.of([folder], upscale=2)
    read: list[Path] = []

    def noting(path: Path) -> ImageArray:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr("adadm.calibration.quality.photographs.read_image", noting)
    for index, _ in enumerate(images):
        assert len(read) == index + 1


@pytest.mark.parametrize(
    ("count", "least", "sizes"), [(10, 3, (7, 3)), (3, 3, (2, 1)), (8, 8, (6, 2)), (7, 8, (7, 7))]
)
def test_a_share_is_held_back(count: int, least: int, sizes: tuple[int, int], folder: Path) -> None:
    images = CalibrationImages.of([folder], upscale=4, count=count)
    calibration, held_back = images.split(least)
    assert (len(calibration), len(held_back)) == sizes
    assert len(list(held_back)) == len(held_back.sizes) == sizes[1]
    if sizes == (count, count):
        assert calibration is held_back is images
        return
    assert [*calibration.files.items(), *held_back.files.items()] == list(images.files.items())
    again = CalibrationImages.of(held_back.paths, upscale=4)
    assert (again.digest, again.sizes) == (held_back.digest, held_back.sizes)
    assert str(held_back).startswith(f"{sizes[1]} of 10 photographs")


def copies(image: ImageArray) -> dict[str, ImageArray]:
    """The same photograph again, as people have it."""
    noisy = image.astype(int) + np.random.default_rng(5).integers(-3, 4, image.shape)
    return {"noisy.png": np.clip(noisy, 0, 255).astype(np.uint8), "jpeg.jpg": image}


def test_equal_photographs_count_once(folder: Path) -> None:
    assert CalibrationImages.of([folder], upscale=2).too_few is None
    first = read_image(folder / "0.png")
    alone = folder.parent / "alone"
    for name, image in {"0.png": first, **copies(first)}.items():
        write_image(alone / name, image)
    images = CalibrationImages.of([alone], upscale=2)
    assert (len(images), images.different) == (3, 1)
    assert "1 different of 3 photographs: others may lose more" in str(images.too_few)
    both = CalibrationImages.of([alone, folder], upscale=2)
    assert (len(both), both.different) == (12, 10)
    seven = CalibrationImages.of([folder], upscale=2, count=7)
    assert "7 different of 7 photographs" in str(seven.too_few)
