"""The std that tiles share, against numpy; `test_upscaler.py` has it of the bundled models."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pytest

from _support.pictures import scene
from adadm.runtime.errors import SessionError
from adadm.runtime.images.arrays import Pixels, batch_from_image
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.tensor_spec import TensorSpec
from adadm.runtime.sessions.session import FloatArray, Session
from adadm.runtime.upscaling import shared_std as shared_statistics
from adadm.runtime.upscaling.shared_std import Passes, pooled_std, runs, shared_std
from adadm.runtime.upscaling.tile_plan import Plan, make_plan


def plan_of(image: Pixels, tile: int, overlap: int) -> Plan:
    plan = make_plan((image.shape[0], image.shape[1]), tile, overlap=overlap, largest=None)
    assert not plan.is_whole
    return plan


def reader(image: Pixels) -> Callable[[int, int, int, int], Pixels]:
    def read(top: int, left: int, height: int, width: int) -> Pixels:
        assert 0 <= top < top + height <= image.shape[0]
        assert 0 <= left < left + width <= image.shape[1]
        return image[top : top + height, left : left + width]

    return read


def shared(session: Session, image: Pixels, plan: Plan, passes: Passes) -> tuple[FloatArray, int]:
    """The std of each trunk, and how many windows were run for it."""
    count: list[int] = []
    std = shared_std(
        session,
        reader(image),
        to_input=lambda pixels: batch_from_image(pixels, 255),
        plan=plan,
        passes=passes,
        on_run=lambda: count.append(1),
    )
    assert std.dtype == np.float32 and std.shape == (1, std.size, 1, 1)
    return std.ravel(), len(count)


class Recurrence(Session):
    """Three trunks, each made with the std of the one before it, as in a network with AdaDM."""

    def __init__(self) -> None:
        self.inputs = [TensorSpec("std", (1, 3, 1, 1), np.dtype(np.float32))]
        self.outputs, self.metadata = [], ModelMetadata()

    def run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        rows, columns = feed["rows_inside"].ravel() > 0, feed["columns_inside"].ravel() > 0
        inside = feed["lr"][0][:, rows][:, :, columns]
        rows_of_moments = []
        for values in self.trunks(inside, feed["std"].ravel()):
            mean = values.mean()
            rows_of_moments.append([values.size, mean, ((values - mean) ** 2).sum()])
        return {"moments": np.array([rows_of_moments], np.float32)}

    def _run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        return self.run(feed)

    def _release(self) -> None: ...

    @staticmethod
    def trunks(image: FloatArray, std: FloatArray) -> list[npt.NDArray[np.float64]]:
        """With a std of 0 for its own, as in the bundled models."""
        first = image.astype(np.float64)
        second = first**1.5 / (1 + (std[0] or first.std(ddof=1)))
        third = 30 * np.sqrt(first) + second * np.log1p(std[1] or second.std(ddof=1))
        return [first, second, third]

    def exact(self, image: Pixels) -> list[float]:
        """One trunk after the other, over the whole image."""
        whole = batch_from_image(image, 255)[0]
        std = np.zeros(3)
        for trunk in range(3):
            std[trunk] = self.trunks(whole, std)[trunk].std(ddof=1)
        return std.tolist()


@pytest.mark.parametrize(("tile", "overlap"), [(20, 0), (24, 7), (1, 20)])
def test_settled_statistics_are_exact(
    tile: int, overlap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, session = scene(61, 83), Recurrence()
    plan = plan_of(image, tile, overlap)
    std, _ = shared(session, image, plan, "settle")
    np.testing.assert_allclose(std, session.exact(image), rtol=2e-6)
    monkeypatch.setattr(shared_statistics, "_EXTRA_PASSES", 0)
    rough, _ = shared(session, image, plan, 2)
    np.testing.assert_allclose(rough, std, rtol=0.02)
    assert np.abs(rough / std - 1).max() > 1e-5  # else there is nothing to settle


def test_an_image_that_the_mosaics_do_not_show_settles_too() -> None:
    """Black, but for a corner so small that no patch need meet it."""
    image = np.zeros((200, 200, 3), np.uint16)
    image[90:96, 70:76] = np.random.default_rng(0).integers(0, 65536, (6, 6, 3))
    session = Recurrence()
    std, _ = shared(session, image, plan_of(image, 40, 4), "settle")
    np.testing.assert_allclose(std, session.exact(image), rtol=2e-6)


@pytest.mark.parametrize("level", [0, 12_345])
def test_a_flat_image_has_no_deviation_and_gives_no_warning(level: int) -> None:
    image = np.full((50, 70, 3), level, np.uint16)
    std, _ = shared(Recurrence(), image, plan_of(image, 20, 3), "settle")
    assert np.abs(std).max() <= 1e-3 * level
    assert np.isfinite(std).all()


def test_an_image_unlike_its_sample_gets_more_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    image, session = scene(61, 83), Recurrence()
    plan = plan_of(image, 24, 7)
    std, count = shared(session, image, plan, 2)
    assert runs(plan, 2) < count <= runs(plan, 6)
    monkeypatch.setattr(shared_statistics, "_EXTRA_PASSES", 0)
    rough, fewer = shared(session, image, plan, 2)
    assert fewer == runs(plan, 2)
    error, rough_error = (np.abs(s / session.exact(image) - 1).max() for s in (std, rough))
    assert error < rough_error / 20


@pytest.mark.parametrize("passes", [2, 3, 5])
def test_runs_are_counted_before(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_statistics, "_EXTRA_PASSES", 0)
    image = scene(61, 83)
    plan = plan_of(image, 24, 7)
    assert shared(Recurrence(), image, plan, passes)[1] == runs(plan, passes)


class Recorder(Session):
    """Keeps what it is fed, as coordinates of the image."""

    def __init__(self) -> None:
        self.inputs = [TensorSpec("std", (1, 2, 1, 1), np.dtype(np.float32))]
        self.outputs, self.metadata = [], ModelMetadata()
        self.feeds: list[tuple[FloatArray, FloatArray, FloatArray]] = []

    def run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        assert feed["rows_inside"].shape[2] == feed["lr"].shape[2]
        assert feed["columns_inside"].shape[3] == feed["lr"].shape[3]
        assert {"rows_inside", "columns_inside", "lr", "std"} == feed.keys()
        rows, columns = feed["rows_inside"].ravel() > 0, feed["columns_inside"].ravel() > 0
        self.feeds.append((feed["lr"][0, :2], rows, columns))
        return {"moments": np.ones((1, 2, 3), np.float32)}

    def _run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        return self.run(feed)

    def _release(self) -> None: ...


SIZES = [
    ((61, 83), 24, 7),
    ((1, 90), 10, 3),
    ((90, 1), 10, 0),
    ((40, 29), 1, 12),
    ((33, 200), 64, 12),
    ((190, 230), 64, 12),
]


@pytest.mark.parametrize(("size", "tile", "overlap"), SIZES)
def test_windows_count_each_pixel_once_and_mosaics_their_middles(
    size: tuple[int, int], tile: int, overlap: int
) -> None:
    y, x = np.mgrid[: size[0], : size[1]]
    coordinates = np.stack([y, x, y], axis=-1).astype(np.uint16)
    session = Recorder()
    plan = plan_of(coordinates, tile, overlap)
    shared_std(
        session,
        reader(coordinates),
        to_input=lambda pixels: pixels.astype(np.float32).transpose(2, 0, 1)[None],
        plan=plan,
        passes=2,
        on_run=lambda: None,
    )
    assert {feed[0].shape[1:] for feed in session.feeds} == {plan.shape}
    mosaics, windows = session.feeds[:4], session.feeds[8 : 8 + plan.count]
    counted = [lr[:, rows][:, :, columns].reshape(2, -1) for lr, rows, columns in windows]
    everything = np.concatenate(counted, axis=1).T.astype(int).tolist()
    assert sorted(everything) == np.stack([y, x], axis=-1).reshape(-1, 2).tolist()

    margin = overlap // 3 if min(plan.shape) >= 16 + 2 * (overlap // 3) else 0
    middles = set()
    for lr, rows, columns in mosaics:
        assert rows.any() and columns.any()
        for i in np.flatnonzero(rows):
            for j in np.flatnonzero(columns):
                top, left = int(lr[0, i, j]), int(lr[1, i, j])
                middles.add((top, left))
                around = lr[:, i - margin : i + margin + 1, j - margin : j + margin + 1]
                expected = np.mgrid[
                    top - margin : top + margin + 1, left - margin : left + margin + 1
                ]
                np.testing.assert_array_equal(around, expected)
    # where a window has room for several patches, they come from all over the image
    for axis, length in enumerate(size):
        if plan.shape[axis] >= 2 * (16 + 2 * margin):
            assert {4 * middle[axis] // length for middle in middles} == {0, 1, 2, 3}


def test_a_network_that_diverges_is_refused() -> None:
    """A std that is no number would give the factor 0, and a picture that looks right."""

    class Diverging(Recurrence):
        def run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
            moments = super().run(feed)["moments"]
            moments[:, 1:, 1:] = np.inf
            return {"moments": moments}

    image = scene(61, 83)
    with pytest.raises(SessionError, match="the network diverges on this image"):
        shared(Diverging(), image, plan_of(image, 24, 7), 2)


def moments_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """What a model returns for trunks (N, B, pixels): (N, B, 3) in float32."""
    mean = values.mean(axis=2)
    squares = ((values - mean[..., None]) ** 2).sum(axis=2)
    return np.stack([np.full_like(mean, values.shape[2]), mean, squares], axis=2, dtype=np.float32)


@pytest.mark.parametrize(("mean", "std"), [(-0.5, 1e-3), (500, 1), (1e4, 300)])
def test_unequal_tiles_give_the_std_of_their_union(mean: float, std: float) -> None:
    rng = np.random.default_rng(0)
    parts = ((7, 0.0), (1, 5 * std), (911, -3 * std), (20_000, std))
    tiles = [rng.normal(mean + shift, std, pixels) for pixels, shift in parts]
    found = pooled_std([moments_of(tile[None, None]) for tile in tiles])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [np.concatenate(tiles).std(ddof=1)], rtol=1e-5)


def test_the_mean_of_the_std_of_the_tiles_would_be_wrong() -> None:
    """And so would sums of squares in float32: a test that they pass would show nothing."""
    rng = np.random.default_rng(1)
    tiles = [rng.normal(mean, 1.0, 500) for mean in (1e4, 1e4 + 3)]
    (found,) = pooled_std([moments_of(tile[None, None]) for tile in tiles])
    union = np.concatenate(tiles)
    assert found == pytest.approx(union.std(ddof=1), rel=5e-5)  # means have 5e-4 in float32
    assert np.mean([tile.std(ddof=1) for tile in tiles]) < 0.7 * found
    single = union.astype(np.float32)
    naive = np.sqrt(np.maximum((single**2).mean() - single.mean() ** 2, 0))
    assert abs(naive - found) > 0.01 * found


def test_a_batch_of_tiles_is_as_good_as_one_after_the_other() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(40, 9, (5, 2, 77)) * rng.uniform(0.1, 3, (5, 2, 1))
    batches = pooled_std([moments_of(part) for part in np.split(values, (2, 3))])
    alone = pooled_std([moments_of(tile[None]) for tile in values])
    np.testing.assert_allclose(batches, alone, rtol=1e-12)
    union = values.transpose(1, 0, 2).reshape(2, -1)
    np.testing.assert_allclose(batches, union.std(axis=1, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("tiles", [1, 3])
def test_one_pixel_and_flat_images_have_no_deviation(tiles: int) -> None:
    assert pooled_std([np.array([[[1, 250.0, 0]]], np.float32)] * tiles).tolist() == [0]
