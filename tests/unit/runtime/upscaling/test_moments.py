"""Pooled statistics against numpy's over the whole, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adadm.runtime.upscaling.moments import pooled_std

Values = npt.NDArray[np.float64]


def moments(values: Values) -> npt.NDArray[np.float32]:
    """What a model returns for trunks (N, B, pixels): (N, B, 3) in float32."""
    mean = values.mean(axis=2)
    squares = ((values - mean[..., None]) ** 2).sum(axis=2)
    count = np.full_like(mean, values.shape[2])
    return np.stack([count, mean, squares], axis=2).astype(np.float32)


def test_unequal_tiles_give_the_std_of_their_union() -> None:
    rng = np.random.default_rng(0)
    stds, means = (1e-3, 1.0, 300.0), (-0.5, 500.0, 1e4)
    tiles = [
        rng.normal(mean + shift, std, pixels)
        for std, mean in zip(stds, means, strict=True)
        for pixels, shift in ((7, 0.0), (1, 5 * std), (911, -3 * std), (20_000, std))
    ]
    by_trunk = [tiles[4 * trunk : 4 * trunk + 4] for trunk in range(3)]
    found = pooled_std(
        [moments(np.array([[trunk[i]] for trunk in by_trunk]).transpose(1, 0, 2)) for i in range(4)]
    )
    expected = [np.concatenate(trunk).std(ddof=1) for trunk in by_trunk]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # means in float32, 500 times the std


def test_the_mean_of_the_std_of_the_tiles_would_be_wrong() -> None:
    """And so would sums of squares in float32: a test that they pass would show nothing."""
    rng = np.random.default_rng(1)
    tiles = [rng.normal(mean, 1.0, 500) for mean in (1e4, 1e4 + 3)]
    (found,) = pooled_std([moments(tile.reshape(1, 1, -1)) for tile in tiles])
    union = np.concatenate(tiles)
    assert found == pytest.approx(union.std(ddof=1), rel=5e-5)  # means have 5e-4 in float32
    assert np.mean([tile.std(ddof=1) for tile in tiles]) < 0.7 * found
    single = union.astype(np.float32)
    naive = np.sqrt(np.maximum((single**2).mean() - single.mean() ** 2, 0))
    assert abs(naive - found) > 0.01 * found


def test_a_batch_of_tiles_is_as_good_as_one_after_the_other() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(40, 9, (5, 2, 77)) * rng.uniform(0.1, 3, (5, 2, 1))
    batches = [moments(values[:2]), moments(values[2:3]), moments(values[3:])]
    alone = [moments(values[i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(pooled_std(batches), pooled_std(alone), rtol=1e-12)
    union = values.transpose(1, 0, 2).reshape(2, -1)
    np.testing.assert_allclose(pooled_std(batches), union.std(axis=1, ddof=1), rtol=1e-6)


def test_one_pixel_and_flat_images_have_no_deviation() -> None:
    one = np.array([[[1, 250.0, 0]]], np.float32)
    assert pooled_std([one]).tolist() == [0]
    assert pooled_std([one, one, one]).tolist() == [0]
