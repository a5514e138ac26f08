"""Sizes of results, and rows that are reduced to them, against Pillow on the whole image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from _support.pictures import noise, scene
from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import Pixels
from adadm.runtime.upscaling.reduced_size import ResultSize, reduced_rows


@pytest.mark.parametrize(
    ("size", "height", "width", "upscale", "expected"),
    [
        (ResultSize(), 30, 40, 2, (60, 80)),
        (ResultSize(factor=1.5), 30, 41, 2, (45, 62)),
        (ResultSize(factor=2), 30, 40, 2, (60, 80)),
        (ResultSize(factor=0.1), 3, 40, 2, (1, 4)),
        (ResultSize.in_box("1920x1080"), 540, 960, 2, (1080, 1920)),  # the same aspect ratio
        (ResultSize.in_box("1920x1080"), 600, 1000, 2, (1080, 1800)),
        (ResultSize.in_box("1920x1080"), 600, 1500, 2, (768, 1920)),
        (ResultSize.in_box("1920x"), 853, 1280, 2, (1280, 1920)),
        (ResultSize.in_box("x1080"), 853, 1280, 2, (1080, 1621)),
        (ResultSize.in_box("100x100"), 3, 1000, 2, (1, 100)),
        (ResultSize.in_box("33x100"), 200, 67, 4, (99, 33)),
    ],
)
def test_sizes(
    size: ResultSize, height: int, width: int, upscale: int, expected: tuple[int, int]
) -> None:
    assert size.of(height, width, upscale) == expected


@pytest.mark.parametrize("size", [ResultSize(factor=2.5), ResultSize.in_box("101x1000")])
def test_more_than_the_network_makes_is_refused(size: ResultSize) -> None:
    with pytest.raises(ImageError, match=r"at most 2 times 40x30 px, .* got 2\.5.*a larger factor"):
        size.of(30, 40, 2)


@pytest.mark.parametrize("text", ["", "x", "0x10", "10x0", "1920", "1920*1080", "-3x4", "1.5x2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected WxH, Wx or xH"):
        ResultSize.in_box(text)


def by_pillow(image: Pixels, height: int, width: int) -> npt.NDArray[np.float32]:
    planes = [
        Image.fromarray(image[..., c].astype(np.float32)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        for c in range(image.shape[2])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def pieces(image: Pixels, lengths: list[int]) -> Iterator[Pixels]:
    top = 0
    for length in lengths:
        yield image[top : top + length]
        top += length
    yield image[top:]


SIZES = [(150, 97), (211, 150), (300, 199), (299, 3), (1, 200), (7, 5)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_rows_are_reduced_as_the_whole_image(height: int, width: int, dtype: type) -> None:
    image = scene(300, 200, dtype)
    rows = list(
        reduced_rows(
            pieces(image, [1, 0, 40, 130, 5]), (300, 200), (height, width), has_alpha=False
        )
    )
    found = np.concatenate(rows)
    assert found.dtype == dtype and len(rows) <= height
    white = np.iinfo(dtype).max
    expected = np.clip(by_pillow(image, height, width), 0, white)
    # Pillow keeps the box in float32: 1e-5 px of a row of 200
    assert np.abs(found - expected).max() <= 0.5 + white * 4e-6


def test_a_size_that_is_made_already_passes_as_it_is() -> None:
    image = noise(0, 9, 7, 3)
    (rows,) = reduced_rows(iter([image]), (9, 7), (9, 7), has_alpha=False)
    assert rows is image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_clear_pixels_have_no_colour_to_bleed(channels: int, dtype: type) -> None:
    """Green where clear, red where opaque; without weights the edge would turn yellow."""
    white = np.iinfo(dtype).max
    image: Pixels = np.zeros((60, 60, channels + 1), dtype)
    image[:, :31, 0] = white  # opaque part
    image[:, 31:, channels - 1] = white // 2  # clear part
    image[:, :31, -1] = white
    (rows,) = reduced_rows(iter([image]), (60, 60), (40, 40), has_alpha=True)
    visible = rows[..., -1] > white // 16
    assert (rows[visible][:, 0] >= white - 1 - white // 250).all()
    if channels == 3:
        assert (rows[visible][:, 1:3] <= white // 100).all()
    alpha = by_pillow(image[..., -1:], 40, 40)
    assert np.abs(rows[..., -1:] - np.clip(alpha, 0, white)).max() <= 0.51
