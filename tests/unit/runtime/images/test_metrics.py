"""Expected values from scikit-image 0.26 (`color.rgb2ycbcr`, `metrics.peak_signal_noise_ratio`)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import enlarge
from adadm.runtime.images.metrics import luma, psnr, psnr_y, resemblance, resemblance_margin

COLOURS = np.array(
    [[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [12, 200, 77]]], np.uint8
)


def test_luma_is_that_of_scikit_image() -> None:
    expected = [16.0, 235.0, 81.481, 144.553, 40.966, 127.44609411764706]
    np.testing.assert_allclose(luma(COLOURS)[0], expected, atol=1e-9)


def test_psnr_of_a_known_error() -> None:
    expected = np.full((4, 5, 3), 100, np.uint8)
    assert psnr(expected + 1, expected) == pytest.approx(48.1308036086791)
    assert psnr(expected, expected) == math.inf
    assert psnr(expected / 255, (expected + 5) / 255, peak=1.0) == pytest.approx(34.15140352195873)


def test_psnr_does_not_wrap_around() -> None:
    """uint8 - uint8 wraps: 0 - 255 would be 1."""
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0)


def test_psnr_y_shaves_the_border() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 14, 3)).astype(np.uint8)
    other = image.copy()
    other[:2] = 255 - other[:2]
    assert psnr_y(other, image, shave=2) == math.inf
    assert psnr_y(other, image, shave=1) < 40
    assert psnr_y(other, image, shave=0) < psnr_y(other, image, shave=1)


def test_shapes_must_agree() -> None:
    with pytest.raises(ImageError, match=r"expected shape \(3, 2\), got \(2, 2\)"):
        psnr(np.zeros((2, 2)), np.zeros((3, 2)))


@pytest.mark.parametrize("factor", [2, 3])
def test_a_result_is_judged_by_its_input_alone(factor: int) -> None:
    rng = np.random.default_rng(factor)
    slopes = np.stack([np.add.outer(np.arange(14) * s, np.arange(11) * 4) for s in (3, 5, 7)], -1)
    lr = (60 + slopes).astype(np.uint8)
    bicubic = enlarge(lr, factor)
    assert resemblance_margin(bicubic, lr) == 0
    nearest = lr.repeat(factor, axis=0).repeat(factor, axis=1)
    assert resemblance(nearest, lr) > 20
    brighter = np.clip(bicubic.astype(int) + 25, 0, 255).astype(np.uint8)
    assert resemblance(brighter, lr) == pytest.approx(20.2, abs=0.7)  # 255 / 25 is 20.2 dB
    garbage = rng.integers(0, 256, bicubic.shape).astype(np.uint8)
    assert resemblance_margin(garbage, lr) < -10


def test_what_nobody_sees_makes_no_difference() -> None:
    """Bicubic interpolation keeps a flat picture exactly: infinitely near, and counted as 40 dB."""
    lr = np.full((8, 8, 3), 77, np.uint8)
    sr = np.full((16, 16, 3), 77, np.uint8)
    sr[::5] += 1
    assert resemblance(enlarge(lr, 2), lr) == math.inf
    assert resemblance_margin(sr, lr) == 0
