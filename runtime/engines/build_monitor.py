"""Watching a builder of TensorRT: what it says, how far it is, and stopping it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import ModuleType
from typing import Any, TypeVar

from adadm.runtime.progress import Progress

Message = tuple[str, str]
"""Its severity, such as `ERROR` or `VERBOSE`, and its text."""
Result = TypeVar("Result")

ERRORS = ("INTERNAL_ERROR", "ERROR")
_WAKE_S = 0.1
_LAST_STEP_S = 60  # a step of the builder times kernels


def make_logger(trt: ModuleType, keep: Callable[[Message], object]) -> Any:
    """A logger to hand to TensorRT, which prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def log(self, severity: Any, message: str) -> None:
            keep((severity.name, message))

    return Logger()


def make_monitor(trt: ModuleType, progress: Progress, stop: threading.Event) -> Any:
    """A progress monitor to hand to TensorRT, which tells percents and the phase.

    Phases nest: a phase of n steps that is within another one's step takes 1/n of that step.
    The last of the open phases is the innermost.

    Args:
        stop: whether the builder is to stop, which it looks up after each of its steps.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()  # phases may come from threads of the builder
            self.open: dict[str, list[int]] = {}  # name: steps done, steps
            self.share = 0.0  # between two phases of a step the sum falls back

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
    """Run a call that Python cannot interrupt in a thread, and stop it at Ctrl-C.

    Args:
        stop: what its monitor looks at. A builder without one (TensorRT 8.x) is left behind in a
            daemon thread, which ends with the process.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(build())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            future.set_exception(error)

    threading.Thread(target=run, name="builder", daemon=True).start()
    try:
        while not future.done():  # not Thread.join: interrupted, it takes the thread for ended
            wait([future], _WAKE_S)
    except KeyboardInterrupt:
        if stop is not None:
            stop.set()
            wait([future], _LAST_STEP_S)
        raise
    return future.result()
