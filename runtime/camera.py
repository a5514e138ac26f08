#!/usr/bin/env python3
"""Upscale a camera, a video or a folder of frames: an example to copy from.

Capture, inference and writing overlap. SOURCE is a folder of images, or what OpenCV opens: the
number of a camera, /dev/video0, a video file, rtsp://..., or a GStreamer pipeline (with " ! " in
it), such as this one for a camera of a Jetson:

  nvarguscamerasrc ! video/x-raw(memory:NVMM),width=960,height=540 ! nvvidconv !
  video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink drop=1 max-buffers=1

From a live source the newest frame is run and frames that come too fast are dropped; from files
every frame is run. The loop ends with the source or with Ctrl-C.
"""

from __future__ import annotations

import argparse
import math
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice, takewhile

import numpy as np

from adadm.runtime.arguments import Parser
from adadm.runtime.backends import BACKENDS, open_session
from adadm.runtime.bounds import above_zero, positive
from adadm.runtime.cli import STOPPING, run
from adadm.runtime.errors import ImageError, SessionError
from adadm.runtime.images.arrays import EXTENSIONS, ImageArray
from adadm.runtime.models.bundled import bundled_path, companion_files
from adadm.runtime.sessions.session import Session
from adadm.runtime.tables import Console
from adadm.runtime.terminal import say, shown
from adadm.runtime.upscaling.result_guard import find_fault
from adadm.runtime.video.film_timing import FilmTiming
from adadm.runtime.video.frames import (
    Frame,
    Frames,
    Write,
    check_frames,
    open_sink,
    open_source,
)

_WARM_UP = 3  # an engine sets itself up in its first runs


@dataclass
class Figures:
    """Measured counts and times.

    Attributes:
        accepted: frames whose result is not the frame enlarged.
        seconds: from the start to the last result.
        times_ms: capture to result, and inference alone, for each of the last frames.
    """

    frames: int = 0
    dropped: int = 0
    accepted: int = 0
    seconds: float = 0.0
    times_ms: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=10_000))

    def __str__(self) -> str:
        rate = self.frames / self.seconds if self.seconds else 0.0
        counts = f"{self.frames} frames, {self.dropped} dropped"
        return f"{counts}, {self.seconds:.2f} s, {rate:.2f} frames per second"


def main(argv: list[str]) -> None:
    """Parse the command line, upscale, and print the measured figures."""
    options = _parse(argv)
    check_frames(options.source, options.output, options.format, companion_files(options.model))
    figures, stop = Figures(), threading.Event()
    source = open_source(options.source, options.output, options.format)
    with (
        closing(source.frames),
        open_session(bundled_path(options.model), backend=options.backend) as session,
    ):
        if not (session.metadata.is_uint8 and session.metadata.upscale):
            raise SessionError(
                f"expected a model that reads 8-bit images, got {options.model}; make one with "
                "'adadm export --io uint8' or 'adadm quantize --io uint8'"
            )
        session.expect(("lr",), "sr", options.model)
        console = Console(stderr=True)
        with console.status("warming up") as line:
            first = next(source.frames, None)
            if first is None:
                raise ImageError(f"expected frames from {options.source}, got none")
            for _ in range(_WARM_UP):
                sr = session.run_shared({"lr": first.image[None]})["sr"]
            for number in STOPPING:  # so that a video is completed
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, lambda *_: stop.set())
            every = chain([replace(first, captured=time.perf_counter())], source.frames)
            rate, size = options.rate or source.rate, sr.shape[1:3]
            with (
                open_sink(options.output, options.format, rate, size) as write,
                closing(newest(every, figures) if source.is_live else read_ahead(every)) as frames,
            ):
                wanted = takewhile(lambda _: not stop.is_set(), islice(frames, options.frames))
                warn = partial(console.print, style="yellow", soft_wrap=True)
                for warning in source.warnings:
                    warn(shown(f"{options.source}: WARNING: {warning}"))
                accepted = warn if options.accept else None
                for _ in upscale_frames(session, wanted, write, figures, accepted):
                    line.update(f"{figures}, {figures.times_ms[-1][0]:.1f} ms")
    say(figures)
    if figures.accepted:
        say(f"accepted though not their frame enlarged: {figures.accepted}")
    medians, p99s = np.percentile(figures.times_ms or [(math.nan, math.nan)], (50, 99), axis=0)
    for name, median, p99 in zip(("capture to result", "inference"), medians, p99s, strict=True):
        say(f"{name}: median {median:.2f} ms, 99th percentile {p99:.2f} ms")
    if source.timing:
        _judge(source.timing, options)


def _judge(timing: FilmTiming, options: argparse.Namespace) -> None:
    """Say how the frames of a film came.

    Raises:
        ImageError: frames are missing.
    """
    if timing.warning and options.output and not options.rate:
        say(f"{options.source}: WARNING: {timing.warning}", sys.stderr)
    if timing.fault and not options.accept:
        raise ImageError(
            f"{options.source}: {timing.fault}. What there is was written; --accept takes it"
        )
    if timing.fault:
        say(f"{options.source}: WARNING: {timing.fault}", sys.stderr)


def upscale_frames(
    session: Session,
    frames: Iterable[Frame],
    write: Write,
    figures: Figures,
    warn: Callable[[str], object] | None = None,
) -> Iterator[None]:
    """Run each frame while a thread checks and writes the previous result.

    Args:
        warn: receives the fault of the first result that is not its frame enlarged, and all such
            results are written; if None, they are errors.

    Yields:
        None after each frame, once the figures include it.

    Raises:
        ImageError: a frame differs in size from the first.
        SessionError: the session cannot run a frame, or a result is not its frame enlarged.
    """

    def finish(frame: Frame, sr: ImageArray) -> None:
        fault = find_fault(frame.image[None], sr, white=255, sampled=True)
        if fault:
            fault = f"frame {frame.name}: {fault}"
            if warn is None:
                raise SessionError(fault)
            if not figures.accepted:
                warn(f"WARNING: {fault}")
            figures.accepted += 1
        write(replace(frame, image=sr[0]))

    start, expected = time.perf_counter(), ""
    written: Future[object] | None = None
    with ThreadPoolExecutor(1, "sink") as sink:
        for frame in frames:
            size = f"{frame.image.shape[1]}x{frame.image.shape[0]} px"
            expected = expected or size
            if size != expected:
                raise ImageError(
                    f"frame {frame.name}: expected {expected} as in the first, got {size}; give "
                    "frames of one size"
                )
            started = time.perf_counter()
            sr = session.run_shared({"lr": frame.image[None]})["sr"]
            ended = time.perf_counter()
            figures.frames, figures.seconds = figures.frames + 1, ended - start
            figures.times_ms.append(((ended - frame.captured) * 1e3, (ended - started) * 1e3))
            if written is not None:
                written.result()
            # A copy, because the next run overwrites what this one returned.
            written = sink.submit(finish, frame, sr.copy())
            yield
        if written is not None:
            written.result()


def read_ahead(frames: Iterator[Frame]) -> Frames:
    """Yield every frame; a thread reads the next one meanwhile."""
    with ThreadPoolExecutor(1, "capture") as thread:
        upcoming = thread.submit(next, frames, None)
        while (frame := upcoming.result()) is not None:
            upcoming = thread.submit(next, frames, None)
            yield frame


def newest(frames: Iterable[Frame], figures: Figures) -> Frames:
    """Yield the newest frame of a live source at each request; drop the others."""
    slot: queue.SimpleQueue[tuple[Frame, int] | None] = queue.SimpleQueue()
    stop = threading.Event()

    def capture() -> None:
        dropped = 0
        try:
            for frame in takewhile(lambda _: not stop.is_set(), frames):
                with suppress(queue.Empty):
                    slot.get_nowait()
                    dropped += 1
                slot.put((frame, dropped))
        finally:
            slot.put(None)

    with ThreadPoolExecutor(1, "capture") as thread:
        capturing = thread.submit(capture)
        try:
            while (taken := slot.get()) is not None:
                frame, figures.dropped = taken
                yield frame
        finally:
            stop.set()
        capturing.result()


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", help="image folder, camera number, video file, address or pipeline")
    add("--model", required=True, help="engine or exported model that reads 8-bit images")
    add("--backend", choices=("auto", *BACKENDS), default="auto")
    add(
        "-o",
        "--output",
        help="an .mp4, .mkv or .avi file, an image folder, or a GStreamer pipeline; default: none, "
        "only measure",
    )
    add(
        "--format",
        choices=[suffix[1:] for suffix in sorted(EXTENSIONS)],
        default="png",
        help="format of written images; default: png",
    )
    add(
        "--rate",
        type=above_zero,
        help="frames per second of a written video; default: that of the source",
    )
    add("--frames", type=positive, metavar="N", help="stop after N frames")
    add(
        "--accept",
        action="store_true",
        help="write results that are too far from their frame, with a warning; default: the first "
        "ends the loop. Films of which frames are missing are no failure then",
    )
    options = parser.parse_args(argv)
    options.format = f".{options.format}"
    return options


if __name__ == "__main__":
    sys.exit(run("camera.py", main, sys.argv[1:]))
