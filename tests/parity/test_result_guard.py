"""The bundled model's results are never refused: neither whole nor in tiles of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from _support.pictures import noise, scene
from adadm.export.proof.drawn_pictures import drawn_pictures
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime import Upscaler
from adadm.runtime.backends import open_session
from adadm.runtime.images.arrays import ImageArray, Pixels, batch_from_image
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.upscaling.result_guard import find_fault


@pytest.fixture(scope="module")
def upscaler() -> Iterator[Upscaler]:
    with Upscaler("x2", backend="cpu", tile="off") as opened:
        yield opened


def check(upscaler: Upscaler, lr: Pixels) -> None:
    sr = upscaler.upscale(lr)  # raises
    if lr.dtype == np.uint8:
        assert find_fault(lr[None], sr[None], white=255, sampled=True) == ""


DRAWN = {
    name: picture
    for unseen in (False, True)
    for name, picture in drawn_pictures(24, unseen=unseen).items()
}


def test_drawn_pictures(upscaler: Upscaler) -> None:
    assert len(DRAWN) == 90
    for picture in DRAWN.values():
        check(upscaler, picture)


PHOTOGRAPHS = [
    photo[top : top + 40, 200:250] for photo in photographs().values() for top in (100, 200)
]


def test_photographs(upscaler: Upscaler) -> None:
    for photo in PHOTOGRAPHS:
        check(upscaler, photo)


def test_tiles_with_statistics_of_their_own() -> None:
    drawn = (DRAWN["bars_12"], DRAWN["checker_8"])
    with Upscaler("x2", backend="cpu", tile=16, passes=1, overlap=4) as upscaler:
        for picture in (PHOTOGRAPHS[0], *drawn, scene(40, 50), scene(40, 50, np.uint8)):
            upscaler.upscale(picture)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (3, 1), (1, 40), (40, 1), (2, 3), (5, 7), (20, 20)]
)
def test_plain_images(upscaler: Upscaler, size: tuple[int, int]) -> None:
    flat: list[ImageArray] = [
        np.full((*size, 3), np.array(colour) * 255, np.uint8) for colour in np.ndindex(2, 2, 2)
    ]
    levels = noise(0, *size, 3)
    grey = np.broadcast_to(levels[..., :1], levels.shape)
    lined = flat[3].copy()
    lined[0] = 255 - lined[0]
    for image in (*flat, levels, grey, levels // 128 * np.uint8(255), lined, scene(*size)):
        check(upscaler, image)


@pytest.mark.alone
@pytest.mark.slow
def test_it_takes_at_most_3_percent_of_inference() -> None:
    lr = batch_from_image(photographs(("coffee",))["coffee"][:256, :256], 255)
    with open_session(bundled_path("x2"), backend="cpu", threads=1) as session:
        ran, guarded = [], []
        for _ in range(5):
            start = time.process_time()
            sr = session.run({"lr": lr})["sr"]
            middle = time.process_time()
            assert find_fault(lr, sr, white=255) == ""
            ran.append(middle - start)
            guarded.append(time.process_time() - middle)
    assert min(guarded) <= 0.03 * min(ran)
