"""Runs of readers in child processes, with limits of time and memory."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

SECONDS_A_CASE = 10.0
"""Of a processor: a busy machine makes no fault."""
_TIMES_LONGER = 12
"""Of the clock, for a case that waits for ever."""
_SECONDS_TO_START = 600.0


@dataclass
class Outcome:
    """What a reader made of its cases.

    Attributes:
        faults: index and cause of each.
    """

    reader: str
    seed: int
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """Cases that were read."""
        return self.accepted + self.refused.total() + len(self.faults)

    @property
    def causes(self) -> Counter[str]:
        """Distinct causes of faults, numbers in their messages aside."""
        return Counter(re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "*", cause) for _, cause in self.faults)


class _Child:
    """A process of `fuzz.child`, and the case that it is at."""

    def __init__(self, reader: str, seed: int, first: int, step: int, stop: int) -> None:
        command = [sys.executable, "-m", "fuzz.child", reader, *map(str, (seed, first, step, stop))]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, start_new_session=True
        )
        self.index: int | None = None
        self._deadline = time.monotonic() + _SECONDS_TO_START
        self._rest, self._used_before = b"", 0.0

    @property
    def is_late(self) -> bool:
        used = 0.0 if self.index is None else self._used() - self._used_before
        return time.monotonic() > self._deadline or used > SECONDS_A_CASE

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def lines(self) -> list[dict[str, Any]] | None:
        """What it has said since; None at its end."""
        content = os.read(self.fileno(), 1 << 20)
        if not content:
            return None
        *whole, self._rest = (self._rest + content).split(b"\n")
        return [json.loads(line) for line in whole]

    def began(self, index: int) -> None:
        self.index = index
        self._deadline = time.monotonic() + _TIMES_LONGER * SECONDS_A_CASE
        self._used_before = self._used()

    def _used(self) -> float:
        """Seconds of a processor that the process has taken."""
        with suppress(psutil.Error):
            return float(sum(psutil.Process(self._process.pid).cpu_times()[:4]))
        return 0.0

    def ended(self) -> None:
        self.index = None

    def kill(self, *, late: bool) -> str:
        """End the process and its children, if it did not end by itself; return how it ended."""
        try:
            self._process.wait(timeout=0.0 if late else 5.0)
            was_running = False
        except subprocess.TimeoutExpired:
            was_running = True
        code = self.stop()
        return "killed" if was_running else f"exit {code}"

    def stop(self) -> int:
        """Kill the process and its children; return its status."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code


def run(
    reader: str, *, seed: int, seconds: float, first: int = 0, most: int = -1, workers: int = 1
) -> Iterator[Outcome]:
    """Feed a reader for a time; yields what was seen so far, about each second and at the end.

    Args:
        first: index of the first case.
        most: cases to read at most; -1 has no limit.
        workers: child processes.

    Raises:
        RuntimeError: the reader cannot be started, or refuses or fails at all its seeds.
    """
    outcome, start = Outcome(reader, seed), time.monotonic()
    stop = first + most if most >= 0 else -1
    selector = selectors.DefaultSelector()
    children = [_Child(reader, seed, first + k, workers, stop) for k in range(workers)]
    for child in children:
        selector.register(child, selectors.EVENT_READ)
    seeds_accepted = 0
    try:
        while children and time.monotonic() - start < seconds:
            ready = [key.fileobj for key, _ in selector.select(timeout=1.0)]
            for child in list(children):
                lines: list[dict[str, Any]] | None = []
                if child in ready:
                    lines = child.lines()
                for line in lines or ():
                    if "begin" in line:
                        child.began(line["begin"])
                    elif "end" in line:
                        child.ended()
                        _count(outcome, line)
                    else:
                        seeds_accepted += line["refused"] is None
                late = child.is_late
                if lines is not None and not late:
                    continue
                selector.unregister(child)
                children.remove(child)
                how = child.kill(late=late)
                if child.index is None and how == "exit 0":
                    continue  # it has read all that were asked for
                if child.index is None:
                    raise RuntimeError(f"{reader} cannot be started: its process ended, {how}")
                cause = (
                    f"hangs: over {SECONDS_A_CASE:g} s of a processor" if late else f"crash: {how}"
                )
                outcome.faults.append((child.index, cause))
                again = _Child(reader, seed, child.index + workers, workers, stop)
                children.append(again)
                selector.register(again, selectors.EVENT_READ)
            outcome.seconds = time.monotonic() - start
            yield outcome
    finally:
        for child in children:
            child.stop()
        selector.close()
    if seeds_accepted == 0:
        raise RuntimeError(f"{reader} accepts none of its seeds: the run says nothing")


def _count(outcome: Outcome, line: dict[str, Any]) -> None:
    if "fault" in line:
        outcome.faults.append((line["end"], line["fault"]))
    elif line["refused"] is None:
        outcome.accepted += 1
    else:
        outcome.refused[line["refused"]] += 1
