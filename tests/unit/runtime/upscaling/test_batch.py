"""Files through a model that repeats each pixel, so that results are known exactly."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adadm.runtime.errors import AdadmError, ImageError, OutputError, SessionError
from adadm.runtime.images.arrays import Pixels
from adadm.runtime.images.photo_reader import Photo, open_photo
from adadm.runtime.images.photo_writer import PhotoWriter
from adadm.runtime.sessions.session import FloatArray, Session, TensorSpec
from adadm.runtime.upscaling import batch
from adadm.runtime.upscaling import variants as model_forms
from adadm.runtime.upscaling.batch import BatchResult, Job, Progress, find_jobs, upscale_files
from adadm.runtime.upscaling.tile_plan import Plan
from adadm.runtime.upscaling.upscaler import Upscaler

pytest.importorskip("pyvips", reason="pyvips is not installed")

FOREVER_S = 20


class Repeating(Session):
    """Each pixel twice. `before_run` is called before each window."""

    def __init__(self) -> None:
        self.inputs = [TensorSpec("lr", (1, 3, "H", "W"), np.dtype(np.float32))]
        self.outputs, self.backend = [], "cpu"
        self.metadata = {
            "adadm.upscale": "2",
            "adadm.rgb_range": "255",
            "adadm.receptive_field": "1",
        }
        self.before_run: Callable[[], object] = lambda: None

    def _run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        self.before_run()
        return {"sr": feed["lr"].repeat(2, axis=2).repeat(2, axis=3)}

    def _release(self) -> None:
        self._closed = False  # one for all that a test opens


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Repeating:
    session = Repeating()
    folder = tmp_path_factory.mktemp("model")
    (folder / "net.onnx").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(model_forms, "open_session", lambda *_: session)
    return session


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    names = {thread.name for thread in threading.enumerate()}
    assert not [name for name in names if name.startswith(("read ahead", "photo enc", "finish"))]


def picture(seed: int, size: tuple[int, int] = (11, 14), channels: int = 3) -> Pixels:
    shape = (*size, channels) if channels > 1 else size
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def make_jobs(folder: Path, count: int, **options: Any) -> list[Job]:
    jobs = []
    for i in range(count):
        Image.fromarray(picture(i, **options)).save(folder / f"{i}.png")
        jobs.append(Job(folder / f"{i}.png", folder / "out" / f"{i}.png"))
    return jobs


def upscale(jobs: list[Job], progress: Progress | None = None, **options: Any) -> BatchResult:
    """Fails, rather than hangs, where threads wait for each other."""
    results: list[BatchResult | BaseException] = []

    def run() -> None:
        try:
            with Upscaler("net.onnx", tile=options.pop("tile", "off"), passes=1) as opened:
                results.append(upscale_files(opened, jobs, progress or Progress(), **options))
        except BaseException as error:  # noqa: BLE001 - raised below
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(FOREVER_S)
    assert results, f"not done in {FOREVER_S} s"
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def check(job: Job, seed: int) -> None:
    expected = picture(seed).repeat(2, axis=0).repeat(2, axis=1)
    with Image.open(job.target) as written:
        np.testing.assert_array_equal(np.asarray(written), expected)


class Steps(Progress):
    """What was reported, in order."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []

    def started(self, job: Job, plan: Plan) -> None:
        self.steps.append(("started", job.source.name, plan.count))

    def advanced(self, done: int, total: int) -> None:
        self.steps.append(("advanced", done, total))

    def ended(self, job: Job, reason: str = "") -> None:
        self.steps.append(("ended", job.source.name, reason))


def test_files_are_upscaled_in_order_and_reported(session: Session, tmp_path: Path) -> None:
    jobs, steps = make_jobs(tmp_path, 4), Steps()
    outcome = upscale(jobs, steps, tile=7)
    assert (outcome.done, outcome.skipped, outcome.failed) == (jobs, [], [])
    for seed, job in enumerate(jobs):
        check(job, seed)
        own = [step for step in steps.steps if job.source.name in step]
        assert [step[0] for step in own] == ["started", "ended"]
    assert steps.steps[0] == ("started", "0.png", 4)
    assert steps.steps[1:5] == [("advanced", i, 4) for i in (1, 2, 3, 4)]
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "1.png", "2.png", "3.png"]


def test_what_is_there_is_not_even_read(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, steps = make_jobs(tmp_path, 3), Steps()
    (tmp_path / "out").mkdir()
    jobs[1].target.write_text("old")
    read: list[Path] = []

    def note(path: Path, most: float) -> Photo:
        read.append(path)
        return open_photo(path, most)

    monkeypatch.setattr(batch, "open_photo", note)
    outcome = upscale(jobs, steps)
    assert (outcome.done, outcome.skipped) == ([jobs[0], jobs[2]], [jobs[1]])
    assert read == [jobs[0].source, jobs[2].source]
    assert jobs[1].target.read_text() == "old"
    assert ("ended", "1.png", "") in steps.steps
    outcome = upscale(jobs, overwrite=True)
    assert outcome.done == jobs
    check(jobs[1], 1)
    assert upscale(jobs).skipped == jobs
    assert upscale([]) == BatchResult()


def test_one_that_fails_does_not_stop_the_others(session: Session, tmp_path: Path) -> None:
    jobs, steps = make_jobs(tmp_path, 6), Steps()
    jobs[0].source.write_text("no image")
    jobs[2].source.unlink()
    (tmp_path / "file").touch()
    jobs[3] = Job(jobs[3].source, tmp_path / "file" / "3.png")
    jobs[4] = Job(jobs[4].source, tmp_path / "out" / "4.gif")
    outcome = upscale(jobs, steps)
    assert sorted(job.source.name for job in outcome.done) == ["1.png", "5.png"]
    reasons = {job.source.name: reason for job, reason in outcome.failed}
    assert "0.png: not a PNG, JPEG, WebP, TIFF or BMP image" in reasons["0.png"]
    assert "2.png: no such file" in reasons["2.png"]
    assert "file" in reasons["3.png"]
    assert "cannot write '.gif'" in reasons["4.png"]
    assert all("\n" not in reason for reason in reasons.values())
    ended = {step[1]: step[2] for step in steps.steps if step[0] == "ended"}
    assert ended == {**reasons, "1.png": "", "5.png": ""}
    check(jobs[1], 1)
    check(jobs[5], 5)
    assert sorted(os.listdir(tmp_path / "out")) == ["1.png", "5.png"]


def test_a_backend_that_fails_on_one_does_not_stop_the_others(
    session: Repeating, tmp_path: Path
) -> None:
    jobs = make_jobs(tmp_path, 3)
    runs: list[int] = []

    def fail_in_the_second() -> None:
        runs.append(1)
        if len(runs) == 6:  # the second of its windows: some rows are with the encoder
            raise SessionError("no memory left")

    session.before_run = fail_in_the_second
    outcome = upscale(jobs, tile=7)
    assert outcome.done == [jobs[0], jobs[2]]
    assert outcome.failed == [(jobs[1], "no memory left")]
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "2.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_mistake_of_ours_ends_all_but_leaves_whole_files(
    session: Repeating, tmp_path: Path, error: type[BaseException]
) -> None:
    jobs = make_jobs(tmp_path, 5)
    runs: list[int] = []

    def fail_in_the_third() -> None:
        runs.append(1)
        if len(runs) == 10:
            raise error("mine")

    session.before_run = fail_in_the_third
    with pytest.raises(error, match="mine"):
        upscale(jobs, tile=7)
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "1.png"]
    check(jobs[1], 1)
    time.sleep(0.3)  # the reader looks for its end ten times a second


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_mistake_of_the_reader_is_raised(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    jobs = make_jobs(tmp_path, 4)

    def read(path: Path, most: float) -> Photo:
        if path == jobs[2].source:
            raise error("in the thread")
        return open_photo(path, most)

    monkeypatch.setattr(batch, "open_photo", read)
    with pytest.raises(error, match="in the thread"):
        upscale(jobs)
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "1.png"]


def test_the_next_is_read_while_one_is_on_the_backend(
    session: Repeating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make_jobs(tmp_path, 3)
    second_is_read, waited = threading.Event(), []

    def read(path: Path, most: float) -> Photo:
        photo = open_photo(path, most)
        if path == jobs[1].source:
            second_is_read.set()
        return photo

    session.before_run = lambda: waited.append(second_is_read.wait(FOREVER_S / 2))
    monkeypatch.setattr(batch, "open_photo", read)
    assert upscale(jobs).done == jobs
    assert waited == [True] * 3


def test_one_is_encoded_while_the_next_is_on_the_backend(
    session: Repeating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make_jobs(tmp_path, 2)
    runs: list[int] = []
    waited: list[bool] = []
    next_runs = threading.Event()

    class LateWriter(PhotoWriter):
        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            if "0.png" in str(self._path):
                waited.append(next_runs.wait(FOREVER_S / 2))
            super().__exit__(kind, error, trace)

    def run() -> None:
        runs.append(1)
        if len(runs) == 2:
            next_runs.set()

    session.before_run = run
    monkeypatch.setattr(batch, "PhotoWriter", LateWriter)
    assert upscale(jobs).done == jobs
    assert waited == [True]
    check(jobs[0], 0)


class BrokenWriter(PhotoWriter):
    """Fails at the end of the first image, as a disk does that is full then."""

    error: Exception

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        broken = self.error if "0.png" in str(self._path) and error is None else error
        super().__exit__(type(broken) if broken else None, broken, trace)
        if broken is not error and broken is not None:
            raise broken


@pytest.mark.parametrize("error", [ImageError("disk full"), OSError(28, "full", "disk")])
def test_a_writer_that_fails_at_the_end_fails_its_image_alone(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    jobs, steps = make_jobs(tmp_path, 3), Steps()
    monkeypatch.setattr(BrokenWriter, "error", error, raising=False)
    monkeypatch.setattr(batch, "PhotoWriter", BrokenWriter)
    outcome = upscale(jobs, steps)
    assert outcome.failed == [(jobs[0], str(error))]
    assert outcome.done == jobs[1:]
    assert ("ended", "0.png", str(error)) in steps.steps
    assert sorted(os.listdir(tmp_path / "out")) == ["1.png", "2.png"]
    check(jobs[1], 1)


def test_a_mistake_of_the_writer_is_raised(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make_jobs(tmp_path, 3)
    monkeypatch.setattr(BrokenWriter, "error", ValueError("rows"), raising=False)
    monkeypatch.setattr(batch, "PhotoWriter", BrokenWriter)
    with pytest.raises(ValueError, match="rows"):
        upscale(jobs)
    assert "0.png" not in os.listdir(tmp_path / "out")


def test_few_images_are_open_at_once_and_all_are_closed(
    session: Repeating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make_jobs(tmp_path, 8)
    jobs[4].source.write_text("no image")
    opened: list[Photo] = []
    most_at_once: list[int] = []

    def read(path: Path, most: float) -> Photo:
        photo = open_photo(path, most)
        opened.append(photo)
        most_at_once.append(sum(photo._image is not None for photo in opened))
        return photo

    monkeypatch.setattr(batch, "open_photo", read)
    session.before_run = lambda: time.sleep(0.03)  # slower than reading
    upscale(jobs)
    assert len(opened) == 7
    assert max(most_at_once) <= 3  # on the backend, waiting, and waiting for its place
    assert not [photo for photo in opened if photo._image is not None]


def test_megapixels_are_bounded(session: Session, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, 1, size=(100, 101))
    outcome = upscale(jobs, largest_megapixels=0.01)
    assert "101x100 are 0 megapixels, and 0.01 are allowed" in outcome.failed[0][1]
    assert upscale(jobs, largest_megapixels=0.0101).done == jobs


@pytest.mark.parametrize("tile", ["off", 7])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_are_those_of_the_source(
    session: Session, tmp_path: Path, channels: int, tile: Any
) -> None:
    jobs = make_jobs(tmp_path, 1, channels=channels)
    assert upscale(jobs, tile=tile).done == jobs
    expected = picture(0, channels=channels).repeat(2, axis=0).repeat(2, axis=1)
    with Image.open(jobs[0].target) as written:
        np.testing.assert_array_equal(np.asarray(written), expected)


@pytest.mark.parametrize("value", [255, 0, 77])
@pytest.mark.parametrize("tile", ["off", 300])
def test_constant_alpha_costs_no_inference(
    session: Repeating, tmp_path: Path, value: int, tile: Any
) -> None:
    image = picture(0, (520, 9), channels=4)  # more than the rows that are looked at at once
    image[..., 3] = value
    runs: list[int] = []
    session.before_run = lambda: runs.append(1)
    for last, expected_runs in ((value, 1), (128, 2)):
        image[-1, -1, 3] = last
        Image.fromarray(image).save(tmp_path / "a.png")
        job = Job(tmp_path / "a.png", tmp_path / "b.png")
        runs.clear()
        assert upscale([job], overwrite=True, tile=tile).done == [job]
        windows = 1 if tile == "off" else 2
        assert len(runs) == expected_runs * windows
        with Image.open(job.target) as written:
            expected = image.repeat(2, axis=0).repeat(2, axis=1)
            np.testing.assert_array_equal(np.asarray(written), expected)


# find_jobs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(jobs: list[Job], folder: Path) -> list[tuple[str, str]]:
    return [
        (job.source.relative_to(folder).as_posix(), job.target.relative_to(folder).as_posix())
        for job in jobs
    ]


def test_folders_are_mirrored(tmp_path: Path) -> None:
    touch(
        tmp_path, "in/b.png", "in/sub dir/ä 写.JPG", "in/sub dir/deep/c.tif", "in/note.txt", "d.bmp"
    )
    (tmp_path / "in" / "folder.png").mkdir()
    jobs = find_jobs([tmp_path / "in", tmp_path / "d.bmp"], tmp_path / "out", None)
    assert found(jobs, tmp_path) == [
        ("in/b.png", "out/b.png"),
        ("in/sub dir/deep/c.tif", "out/sub dir/deep/c.tif"),
        ("in/sub dir/ä 写.JPG", "out/sub dir/ä 写.JPG"),
        ("d.bmp", "out/d.bmp"),
    ]
    jobs = find_jobs([tmp_path / "in"], tmp_path / "out", ".webp")
    assert [job.target.name for job in jobs] == ["b.webp", "c.webp", "ä 写.webp"]


def test_one_file_may_go_to_a_file_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.b.png", "c.png")
    one, both = [tmp_path / "a.b.png"], [tmp_path / "a.b.png", tmp_path / "c.png"]
    assert found(find_jobs(one, tmp_path / "x.TIFF", None), tmp_path) == [("a.b.png", "x.TIFF")]
    assert found(find_jobs(one, tmp_path / "out", ".tif"), tmp_path) == [("a.b.png", "out/a.b.tif")]
    assert [job.target for job in find_jobs(both, tmp_path / "x.png", None)] == [
        tmp_path / "x.png" / "a.b.png",
        tmp_path / "x.png" / "c.png",
    ]


def test_earlier_results_inside_the_input_are_no_input(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/out/a.png", "in/out/sub/b.png", "in/outer/c.png")
    jobs = find_jobs([tmp_path / "in"], tmp_path / "in" / "out", None)
    assert found(jobs, tmp_path) == [
        ("in/a.png", "in/out/a.png"),
        ("in/outer/c.png", "in/out/outer/c.png"),
    ]


def test_results_never_replace_sources_or_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "in/a.png", "in/a.jpg", "other/a.png", "in/sub/b.png")
    folder, other, output = tmp_path / "in", tmp_path / "other", tmp_path / "out"
    monkeypatch.chdir(folder)
    (tmp_path / "link").symlink_to(folder)
    for inputs, target in (
        ([folder], folder),
        ([folder / "a.png"], folder),
        ([folder / "a.png"], folder / "a.png"),
        ([Path("a.png")], Path("a.png")),
        ([folder / "a.png"], tmp_path / "link" / "a.png"),
        ([folder / "sub", other], tmp_path / "in" / "sub"),
    ):
        with pytest.raises(OutputError, match="would replace a source; choose another -o"):
            find_jobs(inputs, target, None)
    for inputs, suffix in (([folder, other], None), ([folder], ".webp")):
        with pytest.raises(
            OutputError, match=r"a\.(png|jpg) and .*a\.png would both become .*/out/a\.(png|webp); "
        ):
            find_jobs(inputs, output, suffix)


def test_a_folder_without_images_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "in/note.txt", "only/out/a.png")
    for folder, output in (("in", "out"), ("only", "only/out")):
        with pytest.raises(AdadmError, match=rf"{folder}: no image in it \(\.bmp, \.jpeg, "):
            find_jobs([tmp_path / folder], tmp_path / output, None)
