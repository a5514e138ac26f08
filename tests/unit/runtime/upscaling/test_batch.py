"""Files through a model that repeats each pixel, so that results are known exactly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import numpy as np
import pytest
from PIL import Image

from _support.pictures import files, noise
from _support.repeating_session import RepeatingSession, doubled
from _support.waiting import FOREVER_S, within_time
from adadm.runtime.errors import ImageError, SessionError
from adadm.runtime.images.arrays import Pixels
from adadm.runtime.images.photo_reader import Photo, open_photo
from adadm.runtime.images.photo_writer import PhotoWriter
from adadm.runtime.progress import Progress
from adadm.runtime.sessions.session import Session
from adadm.runtime.upscaling import batch
from adadm.runtime.upscaling.batch import BatchResult, upscale_files
from adadm.runtime.upscaling.jobs import Job
from adadm.runtime.upscaling.upscaler import Upscaler

pytest.importorskip("pyvips", reason="pyvips is not installed")

pytestmark = pytest.mark.usefixtures("no_thread_stays")


@pytest.fixture
def session(model: Callable[..., RepeatingSession]) -> RepeatingSession:
    return model(receptive_field="1")


def picture(seed: int, size: tuple[int, int] = (11, 14), channels: int = 3) -> Pixels:
    return noise(seed, *size, channels).squeeze()


def make_jobs(folder: Path, count: int, **options: Any) -> list[Job]:
    jobs = []
    for i in range(count):
        Image.fromarray(picture(i, **options)).save(folder / f"{i}.png")
        jobs.append(Job(folder / f"{i}.png", folder / "out" / f"{i}.png"))
    return jobs


def upscale(jobs: list[Job], **options: Any) -> BatchResult:
    def run() -> BatchResult:
        with Upscaler("net.onnx", tile=options.pop("tile", "off"), passes=1) as opened:
            return upscale_files(opened, jobs, **options)

    return within_time(run)


def check(job: Job, image: int | Pixels) -> None:
    """That the result is that of an image, or of `picture` with a seed."""
    expected = doubled(picture(image) if isinstance(image, int) else image)
    with Image.open(job.target) as written:
        np.testing.assert_array_equal(np.asarray(written), expected)


@pytest.fixture
def when_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Photo], object]], None]:
    """Has a call be told of each photo once it is open."""

    def watch(call: Callable[[Photo], object]) -> None:
        def read(path: Path, most: float) -> Photo:
            photo = open_photo(path, most)
            call(photo)
            return photo

        monkeypatch.setattr(batch, "open_photo", read)

    return watch


@pytest.fixture
def when_written(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has a call, which may raise, precede the end of the first image, as on a disk full then."""

    def watch(call: Callable[[], object]) -> None:
        class Watched(PhotoWriter):
            @contextmanager
            def _encoding(self) -> Iterator[None]:
                with super()._encoding():
                    yield
                    if "0.png" in str(self._path):
                        call()

        monkeypatch.setattr(batch, "PhotoWriter", Watched)

    return watch


def test_files_are_upscaled_in_order_and_reported(session: Session, tmp_path: Path) -> None:
    jobs, progress, windows = make_jobs(tmp_path, 4), Mock(spec=Progress), Mock(spec=Progress)
    outcome = upscale(jobs, tile=7, progress=progress, windows=windows)
    assert (outcome.done, outcome.skipped, outcome.failed) == (jobs, [], [])
    for seed, job in enumerate(jobs):
        check(job, seed)
    assert progress.advance.call_args_list == [call(done, 4) for done in range(5)]
    assert windows.phase.call_args_list == [call(job.source.name) for job in jobs]
    steps = [step.args[:2] for step in windows.advance.call_args_list]
    assert steps == [(done, 4) for done in (1, 2, 3, 4)] * 4
    assert files(tmp_path / "out") == ["0.png", "1.png", "2.png", "3.png"]


def test_what_is_there_is_not_even_read(
    session: Session, tmp_path: Path, when_read: Callable[..., None]
) -> None:
    jobs, progress = make_jobs(tmp_path, 3), Mock(spec=Progress)
    (tmp_path / "out").mkdir()
    jobs[1].target.write_text("old")
    read: list[Path] = []
    when_read(lambda photo: read.append(photo.path))
    outcome = upscale(jobs, progress=progress)
    assert (outcome.done, outcome.skipped) == ([jobs[0], jobs[2]], [jobs[1]])
    assert read == [jobs[0].source, jobs[2].source]
    assert jobs[1].target.read_text() == "old"
    assert progress.advance.call_args_list == [call(done, 3) for done in (1, 2, 3)]
    assert upscale(jobs, overwrite=True).done == jobs
    check(jobs[1], 1)
    assert upscale(jobs).skipped == jobs
    assert upscale([]) == BatchResult()


def test_one_that_fails_does_not_stop_the_others(session: Session, tmp_path: Path) -> None:
    jobs, progress = make_jobs(tmp_path, 6), Mock(spec=Progress)
    jobs[0].source.write_text("no image")
    jobs[2].source.unlink()
    (tmp_path / "file").touch()
    jobs[3] = Job(jobs[3].source, tmp_path / "file" / "3.png")
    jobs[4] = Job(jobs[4].source, tmp_path / "out" / "4.gif")
    outcome = upscale(jobs, progress=progress)
    assert sorted(job.source.name for job in outcome.done) == ["1.png", "5.png"]
    reasons = {job.source.name: reason for job, reason in outcome.failed}
    assert "0.png: not a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF image" in reasons["0.png"]
    assert "2.png: no such file" in reasons["2.png"]
    assert "file" in reasons["3.png"]
    assert "got '.gif'" in reasons["4.png"]
    assert all("\n" not in reason for reason in reasons.values())
    assert progress.advance.call_args == call(6, 6)
    messages = [call(f"{job.source} failed", warning=True) for job, _ in outcome.failed]
    assert progress.message.call_args_list == messages
    check(jobs[1], 1)
    check(jobs[5], 5)
    assert files(tmp_path / "out") == ["1.png", "5.png"]


def failing_in(run: int, error: BaseException) -> Callable[[int], None]:
    def fail(runs: int) -> None:
        if runs == run:
            raise error

    return fail


def test_a_backend_that_fails_on_one_does_not_stop_the_others(
    session: RepeatingSession, tmp_path: Path
) -> None:
    jobs = make_jobs(tmp_path, 3)
    # the second of the second's four windows: some rows are with the encoder
    session.before_run = failing_in(5, SessionError("no memory left"))
    outcome = upscale(jobs, tile=7)
    assert outcome.done == [jobs[0], jobs[2]]
    assert outcome.failed == [(jobs[1], "no memory left")]
    assert files(tmp_path / "out") == ["0.png", "2.png"]


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt("mine")])
def test_a_mistake_of_ours_ends_all_but_leaves_whole_files(
    session: RepeatingSession, tmp_path: Path, error: BaseException
) -> None:
    jobs = make_jobs(tmp_path, 5)
    session.before_run = failing_in(9, error)
    with pytest.raises(type(error), match="mine"):
        upscale(jobs, tile=7)
    assert files(tmp_path / "out") == ["0.png", "1.png"]
    check(jobs[1], 1)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_mistake_of_the_reader_is_raised(
    session: Session, tmp_path: Path, when_read: Callable[..., None], error: type[BaseException]
) -> None:
    jobs = make_jobs(tmp_path, 4)

    def fail(photo: Photo) -> None:
        if photo.path == jobs[2].source:
            raise error("in the thread")

    when_read(fail)
    with pytest.raises(error, match="in the thread"):
        upscale(jobs)
    assert files(tmp_path / "out") == ["0.png", "1.png"]


def test_the_next_is_read_while_one_is_on_the_backend(
    session: RepeatingSession, tmp_path: Path, when_read: Callable[..., None]
) -> None:
    jobs = make_jobs(tmp_path, 3)
    second_is_read, waited = threading.Event(), []
    when_read(lambda photo: second_is_read.set() if photo.path == jobs[1].source else None)
    session.before_run = lambda _: waited.append(second_is_read.wait(FOREVER_S / 2))
    assert upscale(jobs).done == jobs
    assert waited == [True] * 3


def test_one_is_encoded_while_the_next_is_on_the_backend(
    session: RepeatingSession, tmp_path: Path, when_written: Callable[..., None]
) -> None:
    jobs = make_jobs(tmp_path, 2)
    next_runs, waited = threading.Event(), []
    when_written(lambda: waited.append(next_runs.wait(FOREVER_S / 2)))
    session.before_run = lambda runs: next_runs.set() if runs == 1 else None
    assert upscale(jobs).done == jobs
    assert waited == [True]
    check(jobs[0], 0)


@pytest.mark.parametrize("error", [ImageError("disk full"), OSError(28, "full", "disk")])
def test_a_writer_that_fails_at_the_end_fails_its_image_alone(
    session: Session, tmp_path: Path, when_written: Callable[..., None], error: Exception
) -> None:
    jobs = make_jobs(tmp_path, 3)
    when_written(Mock(side_effect=error))
    outcome = upscale(jobs)
    assert outcome.failed == [(jobs[0], str(error))]
    assert outcome.done == jobs[1:]
    assert files(tmp_path / "out") == ["1.png", "2.png"]
    check(jobs[1], 1)


def test_a_mistake_of_the_writer_is_raised(
    session: Session, tmp_path: Path, when_written: Callable[..., None]
) -> None:
    when_written(Mock(side_effect=ValueError("rows")))
    with pytest.raises(ValueError, match="rows"):
        upscale(make_jobs(tmp_path, 3))
    assert "0.png" not in files(tmp_path / "out")


def test_few_images_are_open_at_once_and_all_are_closed(
    session: RepeatingSession, tmp_path: Path, when_read: Callable[..., None]
) -> None:
    jobs = make_jobs(tmp_path, 8)
    jobs[4].source.write_text("no image")
    opened: list[Photo] = []
    most_at_once: list[int] = []

    def count(photo: Photo) -> None:
        opened.append(photo)
        most_at_once.append(sum(photo._image is not None for photo in opened))

    when_read(count)
    session.before_run = lambda _: time.sleep(0.03)  # slower than reading
    upscale(jobs)
    assert len(opened) == 7
    assert max(most_at_once) <= 3  # on the backend, waiting, and waiting for its place
    assert not [photo for photo in opened if photo._image is not None]


def test_megapixels_are_bounded(session: Session, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, 1, size=(100, 101))
    outcome = upscale(jobs, largest_megapixels=0.01)
    assert "expected at most 0.01 megapixels, got 0 (101x100)" in outcome.failed[0][1]
    assert upscale(jobs, largest_megapixels=0.0101).done == jobs


@pytest.mark.parametrize("tile", ["off", 7])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_are_those_of_the_source(
    session: Session, tmp_path: Path, channels: int, tile: Any
) -> None:
    jobs = make_jobs(tmp_path, 1, channels=channels)
    assert upscale(jobs, tile=tile).done == jobs
    check(jobs[0], picture(0, channels=channels))


@pytest.mark.parametrize("value", [255, 0, 77])
@pytest.mark.parametrize(("tile", "windows"), [("off", 1), (300, 2)])
def test_constant_alpha_costs_no_inference(
    session: RepeatingSession, tmp_path: Path, value: int, tile: Any, windows: int
) -> None:
    image = picture(0, (520, 9), channels=4)  # more than the rows that are looked at at once
    image[..., 3] = value
    job = Job(tmp_path / "a.png", tmp_path / "b.png")
    for last, planes in ((value, 1), (128, 2)):
        image[-1, -1, 3] = last
        Image.fromarray(image).save(job.source)
        session.runs = 0
        assert upscale([job], overwrite=True, tile=tile).done == [job]
        assert session.runs == planes * windows
        check(job, image)
