"""Waits for events, and processes that end with their test.

Nothing waits for a length of time: on a busy machine all takes several times as long.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

FOREVER_S = 600
"""After which what has not ended fails, so that it does not hang."""


def within_time(call: Callable[[], T]) -> T:
    """What a call returns or raises; fails, rather than hangs, when it does not end."""
    results: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(FOREVER_S)
    assert not thread.is_alive(), f"not done in {FOREVER_S} s"
    if raised:
        raise raised[0]
    return results[0]


@contextmanager
def started(
    command: Sequence[str | os.PathLike[str]], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes, which is killed at the end of the block if it still runs."""
    pipe = subprocess.PIPE
    # A shell's & lets its processes, and so theirs, ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
    )
    signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Let a process end; its exit code, and the rest of what it writes to stdout and stderr."""
    out, err = process.communicate(timeout=FOREVER_S)
    return process.returncode, out, err


def wait_until(holds: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Return once something holds, which a process brings about."""
    end = time.monotonic() + FOREVER_S
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"not within {FOREVER_S} s"
        time.sleep(0.02)
