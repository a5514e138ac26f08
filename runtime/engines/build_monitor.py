"""Watch a TensorRT builder: keep its messages, report its progress, stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import ModuleType
from typing import Any, TypeVar

from adadm.runtime.progress import Progress

Message = tuple[str, str]
"""Severity, such as `ERROR` or `VERBOSE`, and text."""
Result = TypeVar("Result")

ERRORS = ("INTERNAL_ERROR", "ERROR")
_WAKE_S = 0.1
_LAST_STEP_S = 60  # the builder may be timing kernels


def make_logger(trt: ModuleType, keep: Callable[[Message], object]) -> Any:
    """Make a logger for TensorRT that passes messages to `keep` and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def log(self, severity: Any, message: str) -> None:
            keep((severity.name, message))

    return Logger()


def make_monitor(trt: ModuleType, progress: Progress, stop: threading.Event) -> Any:
    """Make a progress monitor for TensorRT that reports percent and phase.

    Phases nest: a step of an inner phase of n steps is 1/n of a step of the outer one. The last
    of the open phases is the innermost.

    Args:
        stop: set to stop the builder, which checks it after each step.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()  # the builder may report from several threads
            self.open: dict[str, list[int]] = {}  # name: steps done, steps
            self.share = 0.0  # largest so far: the sum drops between two phases

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            with self.lock:
                self.open[name] = [0, max(steps, 1)]
            self.report()

        def step_complete(self, name: str, step: int) -> bool:
            with self.lock:
                if name in self.open:
                    self.open[name][0] = step + 1
            self.report()
            return not stop.is_set()

        def phase_finish(self, name: str) -> None:
            with self.lock:
                self.open.pop(name, None)

        def report(self) -> None:
            with self.lock:
                share, width = 0.0, 1.0
                for done, steps in self.open.values():
                    width /= steps
                    share += width * min(done, steps - 1)
                self.share = max(self.share, share)
                name = next(reversed(self.open), "")
            progress.advance(round(100 * self.share), 100, name)

    return Monitor()


def run_stoppable(build: Callable[[], Result], stop: threading.Event | None) -> Result:
    """Run an uninterruptible call in a thread, and stop it at Ctrl-C.

    Args:
        stop: event that the monitor checks. None for a builder without a monitor (TensorRT 8.x):
            it is left in a daemon thread, which ends with the process.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(build())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            future.set_exception(error)

    threading.Thread(target=run, name="builder", daemon=True).start()
    try:
        while not future.done():  # not Thread.join: an interrupt makes it treat the thread as ended
            wait([future], _WAKE_S)
    except KeyboardInterrupt:
        if stop is not None:
            stop.set()
            wait([future], _LAST_STEP_S)
        raise
    return future.result()
