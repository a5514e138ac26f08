"""What is taken for an enlarged image, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _support.pictures import scene
from _support.repeating_session import doubled
from adadm.runtime.errors import SessionError
from adadm.runtime.images.arrays import Pixels, batch_from_image, enlarge, reduce, to_integers
from adadm.runtime.upscaling.result_guard import bicubic_means, block_means, find_fault

SIDES = st.integers(1, 20)
SEEDS = st.integers(0, 2**32 - 1)


def fault(lr: Pixels, sr: npt.NDArray[Any], *, white: float = 255.0, **options: Any) -> str:
    """Of an image of a float model, or of one that reads images where the result is one."""
    if sr.dtype == np.uint8:
        return find_fault(lr[None], sr[None], white=255.0, **options)
    planes = (sr * np.float32(white / 255)).transpose(2, 0, 1)[None]
    return find_fault(batch_from_image(lr, white), planes, white=white, **options)


@given(SIDES, SIDES, st.integers(2, 4), st.sampled_from([(0, 1), (4, 8), (1, 3)]), SEEDS)
def test_the_means_of_a_bicubic_result_need_no_result(
    height: int, width: int, upscale: int, sampling: tuple[int, int], seed: int
) -> None:
    """Of 16 bits in the middle of their range, so that nothing is clipped or rounded much."""
    image = np.random.default_rng(seed).integers(1 << 14, 3 << 14, (height, width, 3), np.uint16)
    large = enlarge(image, upscale)
    rows = slice(min(sampling[0], height - 1), height, sampling[1])
    expected = large.reshape(height, upscale, width, upscale, 3).mean(axis=(1, 3))[rows, :, 1]
    np.testing.assert_allclose(bicubic_means(image[..., 1], rows, upscale), expected, atol=0.51)
    found = block_means(large[..., 1].astype(np.float32), rows, upscale, 65535.0)
    np.testing.assert_allclose(found, expected, atol=0.01)


@given(SIDES, SIDES, st.integers(1, 4), st.booleans(), SEEDS)
def test_every_image_may_be_enlarged_by_bicubic_interpolation_or_repeated(
    height: int, width: int, upscale: int, sampled: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lr = rng.choice(np.array([0, 255, rng.integers(256)]), (height, width, 3)).astype(np.uint8)
    for sr in (enlarge(lr, upscale), lr.repeat(upscale, axis=0).repeat(upscale, axis=1)):
        assert fault(lr, sr, sampled=sampled) == ""
        assert fault(lr, sr.astype(np.float32), white=1.0, sampled=sampled) == ""


FAULTS: dict[str, Callable[[Pixels, npt.NDArray[np.float32]], object]] = {
    "zeros": lambda _, sr: sr.fill(0),
    "not a number": lambda _, sr: sr.fill(np.nan),
    "a patch that is not a number": lambda _, sr: sr[64:96, 96:128].fill(np.nan),
    "infinite": lambda _, sr: sr.fill(np.inf),
    "1e20": lambda _, sr: sr.fill(1e20),
    "-1e20": lambda _, sr: sr.fill(-1e20),
    "the frame before": lambda lr, sr: np.copyto(sr, doubled(np.roll(lr, 9, axis=1))),
    "upside down": lambda _, sr: np.copyto(sr, sr[::-1].copy()),
    "noise": lambda _, sr: np.copyto(sr, np.random.default_rng(1).uniform(0, 255, sr.shape)),
    "other channels": lambda _, sr: np.copyto(sr, sr[..., ::-1].copy()),
}


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_seen(name: str, sampled: bool) -> None:
    lr = scene(70, 90, np.uint8)
    sr = doubled(lr).astype(np.float32)
    FAULTS[name](lr, sr)
    for white in (1.0, 255.0):
        assert fault(lr, sr, white=white, sampled=sampled) != ""
    # ONNX Runtime clips and casts so.
    assert fault(lr, to_integers(np.nan_to_num(sr, nan=0.0), np.dtype(np.uint8)), sampled=sampled)


def test_a_value_beyond_all_levels_is_seen_where_it_would_pass_for_white() -> None:
    lr = np.full((8, 8, 3), 255, np.uint8)
    sr = np.full((16, 16, 3), 600, np.float32)
    assert fault(lr, sr) == ""
    sr[3, 3] = 1e20
    assert fault(lr, sr).startswith("expected a result of 0 to 255, got values from 600 to 1e+20. ")
    sr[3, 3] = np.nan
    assert fault(lr, sr, white=1.0).startswith("expected a result of 0 to 1, got values from nan")


@pytest.mark.parametrize("white", [0, 1, 255])
def test_the_limit_of_a_flat_image_is_12_levels_and_the_message_says_where(white: int) -> None:
    lr = np.full((40, 48, 3), 100, np.uint8)
    sr = np.full((80, 96, 3), 100, np.float32)
    options: dict[str, Any] = {"white": float(white)} if white else {}
    dtype = np.dtype(np.float32 if white else np.uint8)
    sr[32:48, 48:64] += 12
    assert fault(lr, sr.astype(dtype), **options) == ""
    sr[32:48, 48:64] += 1
    assert fault(lr, sr.astype(dtype), start=(1000, 200), **options).startswith(
        "expected a result within 12 of 255 grey levels of the image (bicubic interpolation: 0), "
        "got 13 at row 1016, column 224. "
    )


def test_the_limit_follows_the_contrast_of_a_cell() -> None:
    """With levels that bicubic interpolation by 2 need not round."""
    lr = np.full((32, 48, 3), 64, np.uint8)
    lr[:, ::2] = 192
    sr = enlarge(lr, 2)
    assert fault(lr, sr) == ""
    cell = np.s_[8:16, 16:24]
    means = sr[16:32, 32:48].reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    bicubic = np.sqrt(np.mean((means - lr[cell]) ** 2))
    limit = 2 * bicubic + 12 + 144 / 32**2
    assert 52 < limit < 53
    for distance in (40, 52, 53, 60):
        sr[16:32, 32:48] = doubled(lr[cell]) + np.uint8(distance)
        found = fault(lr, sr)
        assert bool(found) == (distance > limit)
    assert found.startswith(
        f"expected a result within {limit:.0f} of 255 grey levels of the image (bicubic "
        f"interpolation: {bicubic:.0f}), got 60 at row 8, column 16. "
    )


@pytest.mark.parametrize("upscale", [2, 3])
def test_a_result_may_have_the_contrast_that_reducing_takes(upscale: int) -> None:
    """The image itself is what bicubic reduction leaves of its result."""
    pattern = np.add.outer(np.arange(40), np.arange(40))[..., None] % 2 * 2 - 1
    lr = (128 + 40 * np.tile(pattern, 3)).astype(np.uint8)
    large = lr.repeat(upscale, axis=0).repeat(upscale, axis=1).astype(float)
    left = float(np.std(reduce(large.astype(np.uint8), upscale)[8:-8, 8:-8])) / 40
    sr = np.clip(128 + (large - 128) / left, 0, 255).astype(np.uint8)
    assert np.abs(reduce(sr, upscale)[8:-8, 8:-8] - lr[8:-8, 8:-8].astype(float)).max() <= 2
    assert fault(lr, sr) == ""


def test_a_pattern_of_full_contrast_leaves_no_room_for_more() -> None:
    """Twice bicubic interpolation's 67 levels would let through any image."""
    board = np.add.outer(np.arange(40), np.arange(40)) % 2 == 1
    lr = np.where(board[..., None], [255] * 3, 0).astype(np.uint8)
    assert fault(lr, enlarge(lr, 2)) == ""
    grey = np.full((80, 80, 3), 128, np.uint8)
    assert fault(lr, grey).startswith(  # in a corner, where it is 63
        "expected a result within 76 of 255 grey levels of the image (bicubic interpolation: 63), "
        "got 128 at row 0, column 0. "
    )


def test_small_images_have_more_room() -> None:
    """Networks pad with zeros, and all of these pixels is at a border."""
    for height, width, most in ((1, 1, 156), (1, 50, 156), (50, 2, 48), (4, 9, 21)):
        lr = np.full((height, width, 3), 255, np.uint8)
        sr = doubled(lr)
        sr -= np.uint8(most)
        assert fault(lr, sr) == ""
        sr -= np.uint8(1)
        assert fault(lr, sr) != ""


@pytest.mark.parametrize("shape", [(20, 21, 3), (20, 18, 3), (18, 20, 3), (5, 5, 3)])
def test_a_result_of_another_size_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(SessionError, match="expected a multiple of 10x10 px, got"):
        fault(np.zeros((10, 10, 3), np.uint8), np.zeros(shape, np.uint8))
