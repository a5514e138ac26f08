from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from _support.pictures import scene
from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import (
    batch_from_image,
    crop_to_multiple,
    enlarge,
    find_images,
    image_from_batch,
    read_image,
    reduce,
    write_image,
)


def texture(height: int, width: int) -> npt.NDArray[np.uint8]:
    return scene(height, width, np.uint8).astype(np.uint8)


def imresize_matrix(size: int, new_size: int) -> npt.NDArray[np.float64]:
    """MATLAB's `imresize` along one axis as a matrix, from its definition (R2007a and later).

    Output pixel i lies at u = (i + 0.5) / s - 0.5. Its weights are Keys' cubic (a = -0.5) at the
    distances, stretched by 1 / s when s < 1, divided by their sum; indices mirror at the border.
    """
    s = new_size / size
    stretch = max(1.0, 1 / s)
    matrix = np.zeros((new_size, size))
    for i in range(new_size):
        u = (i + 0.5) / s - 0.5
        taps = np.arange(np.floor(u - 2 * stretch) - 1, np.ceil(u + 2 * stretch) + 2).astype(int)
        t = np.abs((u - taps) / stretch)
        near = 1.5 * t**3 - 2.5 * t**2 + 1
        far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        weights = np.where(t <= 1, near, np.where(t <= 2, far, 0))
        mirrored = np.mod(taps, 2 * size)
        mirrored = np.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
        np.add.at(matrix[i], mirrored, weights / weights.sum())
    return matrix


def imresize(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.float64]:
    rows, columns = imresize_matrix(image.shape[0], height), imresize_matrix(image.shape[1], width)
    result: npt.NDArray[np.float64] = np.tensordot(rows, image, axes=1)
    result = np.einsum("iwc,jw->ijc", result, columns)
    return np.clip(result, 0, 255)


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(84, 108, 2), (84, 108, 3), (84, 108, 4), (2, 2, 2), (4, 6, 2), (2, 40, 2)],
)
def test_reduce_is_matlabs_to_the_rounding(height: int, width: int, factor: int) -> None:
    image = texture(height, width)
    found = reduce(image, factor)
    exact = imresize(image, height // factor, width // factor)
    assert found.dtype == np.uint8
    # float32 against float64: 0.5 from rounding, and next to nothing else
    assert np.abs(found - exact).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarge_is_matlabs_to_the_rounding(factor: int) -> None:
    image = texture(23, 31)
    exact = imresize(image, 23 * factor, 31 * factor)
    assert np.abs(enlarge(image, factor) - exact).max() <= 0.5 + 1e-4


def test_pillow_alone_differs_at_the_border_and_nowhere_else() -> None:
    """Why the border is mirrored first: the test above would fail without."""
    image = texture(48, 64)
    plane = Image.fromarray(image[..., 0].astype(np.float32))
    alone = np.clip(np.asarray(plane.resize((32, 24), Image.Resampling.BICUBIC)), 0, 255)
    difference = np.abs(alone - imresize(image[..., :1], 24, 32)[..., 0])
    assert difference[2:-2, 2:-2].max() < 1e-3
    assert difference[[0, -1]].max() > 1


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ImageError, match="multiples of 2, got 31x23; crop it"):
        reduce(texture(23, 31), 2)
    assert crop_to_multiple(texture(23, 31), 4).shape == (20, 28, 3)
    with pytest.raises(ImageError, match="at least 4x4 px, got 31x3"):
        crop_to_multiple(texture(3, 31), 4)


@pytest.mark.parametrize("rgb_range", [1.0, 255.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_batches_keep_every_level(dtype: type[np.unsignedinteger[Any]], rgb_range: float) -> None:
    white = int(np.iinfo(dtype).max)
    side = 16 if white == 255 else 256
    image = np.arange(white + 1, dtype=dtype).reshape(side, side, 1).repeat(3, axis=2)
    image[..., 1] = image[::-1, :, 1]
    batch = batch_from_image(image, rgb_range)
    assert batch.shape == (1, 3, side, side) and batch.dtype == np.float32
    # a grey level of 8 bits is 257 of 16
    levels = batch[0, 0].ravel()[:: white // 255]
    np.testing.assert_allclose(levels, np.arange(256) * rgb_range / 255, 1e-6)
    np.testing.assert_array_equal(image_from_batch(batch, rgb_range, dtype), image)
    np.testing.assert_array_equal(
        image_from_batch(batch, rgb_range)[..., 0].ravel(),
        np.rint(np.arange(white + 1) / (white / 255)),
    )


@pytest.mark.parametrize(("dtype", "times"), [(np.uint8, 1), (np.uint16, 257)])
def test_values_outside_the_range_are_clipped_and_others_rounded(dtype: Any, times: int) -> None:
    batch = np.array([-3.0, 0.4 / times, 0.6 / times, 254.0, 255.0, 300.0], np.float32)
    image = image_from_batch(np.tile(batch, (1, 3, 2, 1)), 255.0, dtype)
    assert image.dtype == dtype
    assert image[0, :, 0].tolist() == [0, 0, 1, 254 * times, 255 * times, 255 * times]


def test_files_are_read_as_rgb(tmp_path: Path) -> None:
    image = texture(9, 11)
    write_image(tmp_path / "a b é.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a b é.png"), image)
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (9, 11, 3)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "whole.png", texture(40, 40))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.png", "text.jpg"):
        with pytest.raises(ImageError, match=rf"{name}: not a readable image"):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match=r"missing\.png: no such file"):
        read_image(tmp_path / "missing.png")


def test_images_are_found_recursively_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.JPG", "sub/note.txt", "a.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images([tmp_path])]
    assert found == ["a.webp", "b.png", "sub/a.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty: expected images"):
        find_images([tmp_path / "empty"])
    with pytest.raises(ImageError, match="nowhere: no such file or folder"):
        find_images([tmp_path / "nowhere"])
