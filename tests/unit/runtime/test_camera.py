"""The stages of the camera loop with a model that repeats each pixel, without OpenCV."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from _support.pictures import noise
from _support.repeating_session import RepeatingSession, doubled
from _support.waiting import FOREVER_S
from adadm.runtime.camera import Figures, newest, read_ahead, upscale_frames
from adadm.runtime.errors import ImageError, OutputError, SessionError
from adadm.runtime.images.arrays import ImageArray, write_image
from adadm.runtime.sessions.session import FloatArray
from adadm.runtime.video.frames import Frame, Frames, check_frames, open_sink, open_source

pytestmark = pytest.mark.usefixtures("no_thread_stays")


class Sharing(RepeatingSession):
    """Writes its results into the one array that it has."""

    def __init__(self) -> None:
        super().__init__((1, "H", "W", 3), np.uint8, io="uint8")
        self.shared: FloatArray = np.zeros((1, 8, 12, 3), np.uint8)

    def run_shared(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        np.copyto(self.shared, self.run(feed)["sr"])
        return {"sr": self.shared}


def picture(seed: int, size: tuple[int, int] = (4, 6)) -> ImageArray:
    return noise(seed, *size, 3)


def frame(number: int, size: tuple[int, int] = (4, 6)) -> Frame:
    return Frame(str(number), picture(number, size), 0.0)


def frames(count: int) -> Frames:
    return (frame(number) for number in range(count))


def wait(event: threading.Event) -> None:
    assert event.wait(FOREVER_S), f"not within {FOREVER_S} s"


def upscale(
    given: Frames,
    write: Callable[[Frame], object],
    session: Sharing | None = None,
) -> Figures:
    figures = Figures()
    with closing(given):
        for _ in upscale_frames(session or Sharing(), given, write, figures):
            pass
    return figures


def check(written: list[Frame], numbers: list[int]) -> None:
    assert [each.name for each in written] == [str(number) for number in numbers]
    for number, each in zip(numbers, written, strict=True):
        np.testing.assert_array_equal(each.image, doubled(picture(number)))


def test_results_outlive_the_array_that_the_session_writes_to() -> None:
    written: list[Frame] = []
    figures = upscale(frames(5), written.append)
    check(written, [0, 1, 2, 3, 4])
    assert figures.frames == len(figures.times_ms) == 5
    assert all(latency > alone >= 0 for latency, alone in figures.times_ms)


def test_capture_inference_and_writing_overlap() -> None:
    """Each stage waits in the midst of its work for the other two to be at theirs."""
    count = 4
    captures, runs, writes = ([threading.Event() for _ in range(count)] for _ in range(3))
    session = Sharing()
    written: list[Frame] = []

    def capture() -> Iterator[Frame]:
        for number in range(count):
            captures[number].set()
            if number >= 1:
                wait(runs[number - 1])  # the one before is being run
            yield frame(number)

    def run(number: int) -> None:
        runs[number].set()
        if number + 1 < count:
            wait(captures[number + 1])
        if number >= 1:
            wait(writes[number - 1])

    def write(result: Frame) -> None:
        number = int(result.name)
        writes[number].set()
        if number + 1 < count:
            wait(runs[number + 1])
        written.append(result)

    session.before_run = run
    upscale(read_ahead(capture()), write, session)
    check(written, list(range(count)))


def test_a_slow_sink_holds_the_others_up() -> None:
    captured: list[int] = []
    session = Sharing()
    ran = threading.Event()
    session.before_run = lambda number: ran.set() if number == 1 else None
    seen: list[tuple[int, int]] = []

    def capture() -> Iterator[Frame]:
        for number in range(20):
            captured.append(number)
            yield frame(number)

    def write(result: Frame) -> None:
        if result.name == "0":
            wait(ran)
            threading.Event().wait(0.1)  # for those that would not wait
            seen.append((len(captured), session.runs))

    upscale(read_ahead(capture()), write, session)
    (read, run) = seen[0]
    assert read <= 3 and run <= 2
    assert len(captured) == session.runs == 20


def test_of_a_live_source_the_newest_frame_comes_and_the_others_are_counted() -> None:
    more, given, end = (threading.Event() for _ in range(3))

    def camera() -> Iterator[Frame]:
        yield frame(0)
        wait(more)
        for number in range(1, 6):
            yield frame(number)
        given.set()
        wait(end)
        yield frame(6)

    figures = Figures()
    arriving = newest(camera(), figures)
    assert next(arriving).name == "0"
    more.set()
    wait(given)
    assert next(arriving).name == "5"
    assert figures.dropped == 4
    end.set()
    assert [each.name for each in arriving] == ["6"]
    assert figures.dropped == 4


@pytest.mark.parametrize("is_live", [False, True])
def test_an_error_of_the_source_comes_after_its_frames(is_live: bool) -> None:
    taken = threading.Event()

    def broken() -> Iterator[Frame]:
        yield frame(0)
        wait(taken)
        raise ImageError("1.png: not a readable image")

    session = Sharing()
    session.before_run = lambda _: taken.set()
    written: list[Frame] = []
    arriving = newest(broken(), Figures()) if is_live else read_ahead(broken())
    with pytest.raises(ImageError, match=r"1\.png: not a readable image"):
        upscale(arriving, written.append, session)
    check(written, [0])


@pytest.mark.parametrize("is_live", [False, True])
def test_a_source_is_left_when_no_more_is_wanted(is_live: bool) -> None:
    left = threading.Event()

    def endless() -> Frames:
        number = 0
        try:
            while True:
                yield frame(number)
                number += 1
        finally:
            left.set()

    source = endless()
    arriving = newest(source, Figures()) if is_live else read_ahead(source)
    assert next(arriving).image.shape == (4, 6, 3)
    arriving.close()
    source.close()
    wait(left)


@pytest.mark.parametrize(("fails", "count"), [(2, 50), (3, 4)])
def test_a_sink_that_fails_ends_the_loop(fails: int, count: int) -> None:
    session = Sharing()
    written: list[Frame] = []

    def write(result: Frame) -> None:
        if result.name == str(fails):
            raise OSError(28, "No space left on device")
        written.append(result)

    with pytest.raises(OSError, match="No space left on device"):
        upscale(read_ahead(frames(count)), write, session)
    check(written, list(range(fails)))
    assert session.runs == min(fails + 2, count)  # the one that was running meanwhile


def test_a_session_that_fails_leaves_what_was_done() -> None:
    session = Sharing()

    def run(number: int) -> None:
        if number == 2:
            raise SessionError("no memory left")

    session.before_run = run
    written: list[Frame] = []
    with pytest.raises(SessionError, match="no memory left"):
        upscale(read_ahead(frames(9)), written.append, session)
    check(written, [0, 1])


def test_frames_of_two_sizes_are_refused() -> None:
    written: list[Frame] = []
    given = (frame(number, (6, 4) if number == 2 else (4, 6)) for number in range(3))
    with pytest.raises(
        ImageError, match="frame 2: expected 6x4 px as in the first, got 4x6 px; give"
    ):
        upscale(given, written.append)
    check(written, [0, 1])


def test_figures_of_an_endless_loop_do_not_grow() -> None:
    figures = Figures(dropped=3)
    assert str(figures) == "0 frames, 3 dropped, 0.00 s, 0.00 frames per second"
    figures.times_ms.extend([(1.0, 1.0)] * 10**5)
    assert len(figures.times_ms) == 10_000
    figures.frames, figures.seconds = 50, 4.0
    assert str(figures) == "50 frames, 3 dropped, 4.00 s, 12.50 frames per second"


def test_results_would_replace_a_source_or_each_other(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(0))
    with pytest.raises(OutputError, match="would replace a source; give another -o"):
        check_frames(str(tmp_path), str(tmp_path), ".png")
    write_image(tmp_path / "a.bmp", picture(0))
    with pytest.raises(OutputError, match=r"would both become .*a\.png"):
        check_frames(str(tmp_path), str(tmp_path / "out"), ".png")
    assert len(list(open_source(str(tmp_path), None, ".png").frames)) == 2


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_video_needs_a_rate(tmp_path: Path, rate: float) -> None:
    with (
        pytest.raises(ImageError, match=r"has no frame rate; give --rate"),
        open_sink(str(tmp_path / "a.mp4"), ".png", rate, (4, 6)),
    ):
        pass
    assert not list(tmp_path.iterdir())
