"""The eight turns against numpy's rotations and mirrors, and the mean of results for them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from _support.pictures import noise, scene
from adadm.runtime.images.pixel_source import ArrayPixels
from adadm.runtime.upscaling.tile_plan import Plan
from adadm.runtime.upscaling.turns import TURNS, Array, Turn, TurnedPixels, mean_of_turns
from adadm.runtime.upscaling.windows import grid


def enlarged(lr: Array) -> Array:
    return lr.repeat(2, axis=2).repeat(2, axis=3)


def lopsided(lr: Array) -> Array:
    """Treats no two turns alike."""
    sr = enlarged(lr)
    ramp = np.linspace(0, 1, sr.shape[2])[:, None] + np.linspace(0, 3, sr.shape[3]) ** 2
    return np.asarray(sr + ramp, np.float32)


def rotations_and_mirrors(image: Array) -> set[bytes]:
    return {
        np.rot90(seen, turns).tobytes() for seen in (image, image[:, ::-1]) for turns in range(4)
    }


def test_the_turns_are_all_rotations_and_mirrors() -> None:
    image = noise(0, 5, 7, 3)
    assert {turn.apply(image, 0, 1).tobytes() for turn in TURNS} == rotations_and_mirrors(image)
    for turn in TURNS:
        np.testing.assert_array_equal(turn.undo(turn.apply(image, 0, 1), 0, 1), image)


@pytest.mark.parametrize("turn", TURNS)
def test_regions_and_windows_turn_with_the_image(turn: Turn) -> None:
    image = noise(1, 23, 37, 3)
    source, whole = TurnedPixels(ArrayPixels(image), turn), turn.apply(image, 0, 1)
    assert (source.height, source.width) == whole.shape[:2]
    plan = Plan(grid(23, 37, (9, 15), 3), 3, "")
    turned = turn.plan(plan)
    covered = np.zeros(whole.shape[:2], int)
    for rows, columns in itertools.chain.from_iterable(turned.windows):
        region = source.colour(rows.start, columns.start, rows.length, columns.length)
        expected = whole[rows.start : rows.stop, columns.start : columns.stop]
        np.testing.assert_array_equal(region, expected)
        covered[rows.inner_start : rows.inner_stop, columns.inner_start : columns.inner_stop] += 1
    assert (covered == 1).all()
    starts = [row[0][0].start for row in turned.windows]
    assert starts == sorted(starts) and turned.shape in (plan.shape, plan.shape[::-1])


def test_the_mean_sees_every_turn_alike() -> None:
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 5, 7)).astype(np.float32)
    same = mean_of_turns(lambda _, turned: enlarged(turned), lr)
    np.testing.assert_allclose(same, enlarged(lr), rtol=1e-6)
    expected = mean_of_turns(lambda _, turned: lopsided(turned), lr)
    assert np.abs(expected - lopsided(lr)).max() > 1
    for turn in TURNS:
        turned = mean_of_turns(
            lambda _, seen: lopsided(seen), np.ascontiguousarray(turn.apply(lr, 2, 3))
        )
        np.testing.assert_allclose(turn.undo(turned, 2, 3), expected, rtol=1e-6)


def test_the_mean_of_images_is_rounded() -> None:
    lr = scene(4, 6, np.uint8)[None]

    def run(turn: Turn, turned: Array) -> Array:
        bright = np.minimum(turned, 250) + turn.mirrors_rows * 3
        return bright.repeat(2, axis=1).repeat(2, axis=2)

    mean = mean_of_turns(run, lr)
    assert mean.dtype == np.uint8
    expected = np.rint(np.minimum(lr, 250) + 1.5).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(mean, expected)
