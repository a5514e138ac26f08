"""What happens to a verb from outside: kills, full disks, a second one, a machine closed to it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from _support.homes import strangers_in
from _support.network_watch import NetworkWatch
from fuzz.verbs import VERBS, Run, content

_CLOSED = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && cd "$0" && exec "$@"'
_SMALL_DISK = (
    'mount -t tmpfs -o "size=$1" tmpfs out && shift || exit 99; "$@"; code=$?; '
    'cp -a out after || exit 99; exit "$code"'
)


@dataclass
class Findings:
    """What came of a kind of disturbance of one verb.

    Attributes:
        faults: each says how to see it again.
        notes: what is no fault, but worth a count.
    """

    verb: str
    count: int = 0
    faults: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def note(self, what: str) -> None:
        """Count something."""
        self.notes[what] = self.notes.get(what, 0) + 1


@dataclass(frozen=True)
class Undisturbed:
    """A verb's run that nothing disturbs: seconds, and digests and sizes of its outputs."""

    seconds: float
    contents: Mapping[str, str]
    size_bytes: int


def undisturbed(name: str) -> Undisturbed:
    """Run a verb by itself.

    Raises:
        RuntimeError: it fails.
    """
    with _run(name) as run:
        start = time.monotonic()
        code, said = run.finish(run.start())
        seconds = time.monotonic() - start
        if code != 0:
            raise RuntimeError(f"{name} fails by itself: {said}")
        outputs = run.outputs()
        sizes = sum(path.stat().st_size for path in outputs.values())
        return Undisturbed(seconds, {n: content(p) for n, p in outputs.items()}, sizes)


def kill(name: str, expected: Undisturbed, rng: random.Random, count: int) -> Iterator[Findings]:
    """Kill a verb at random times; each run that follows must end as if nothing had been."""
    findings = Findings(name)
    while findings.count < count:
        after = rng.uniform(0.02, 1.0) * expected.seconds
        with _run(name) as run:
            process = run.start()
            time.sleep(after)
            if process.poll() is not None:
                process.communicate()
                findings.note("ended before")
                continue
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            findings.count += 1
            problems = run.problems(expected.contents, all_there=False)
            if run.leftovers():
                findings.note("left temporary files")
            is_whole = run.outputs().keys() == expected.contents.keys()
            code, said = run.finish(run.start())
            if code != (1 if is_whole and not run.verb.replaces else 0):
                problems.append(f"the run that follows ends with {code}: {said[-300:]}")
            problems += run.problems(expected.contents, all_there=True)
            problems += [f"left for ever: {name}" for name in run.leftovers()]
            findings.faults += [f"killed after {after:.2f} s: {problem}" for problem in problems]
        yield findings


def fill(name: str, expected: Undisturbed, rng: random.Random, count: int) -> Iterator[Findings]:
    """Run a verb on disks that are too small, or only just large enough."""
    findings = Findings(name)
    for index in range(count):
        share = (index + rng.random()) / count * 1.3
        size = max(4096, int(share * expected.size_bytes) // 4096 * 4096)
        with _run(name) as run:
            before = ["unshare", "-rm", "sh", "-c", _SMALL_DISK, "sh", str(size)]
            code, said = run.finish(run.start(before))
            findings.count += 1
            problems = run.problems(expected.contents, all_there=code == 0, place="after")
            if code == 0:
                findings.note("fits")
            elif code != 1 or "Traceback" in said:
                problems.append(f"exit {code}: {said[-600:]}")
            elif not re.search(r"out\b.*No space left on device", said):
                problems.append(f"the file is not named: {said[-300:]}")
            hidden = [path.name for path in (run.folder / "after").rglob(".*")]
            problems += [f"left: {name}" for name in hidden]
            findings.faults += [f"disk of {size} bytes: {problem}" for problem in problems]
        yield findings


def double(name: str, expected: Undisturbed, rng: random.Random, count: int) -> Iterator[Findings]:
    """Run a verb twice at once in one folder: each ends well, or says why not."""
    findings = Findings(name)
    for _ in range(count):
        with _run(name) as run:
            first = run.start()
            time.sleep(rng.uniform(0, 0.2) * expected.seconds)
            ends = [run.finish(process) for process in (run.start(), first)]
            findings.count += 1
            problems = run.problems(expected.contents, all_there=True)
            problems += [f"left: {name}" for name in run.leftovers()]
            for code, said in ends:
                findings.note(f"exit {code}")
                if code not in (0, 1) or "Traceback" in said or "Errno" in said:
                    problems.append(f"exit {code}: {said[-600:]}")
            if all(code != 0 for code, _ in ends):
                problems.append(f"both fail: {ends[0][1][-300:]} {ends[1][1][-300:]}")
            findings.faults += problems
        yield findings


def close(name: str, expected: Undisturbed, rng: random.Random, count: int) -> Iterator[Findings]:
    """Run a verb without network, where nothing but its working folder can be written."""
    findings = Findings(name)
    with _run(name) as run, tempfile.TemporaryDirectory(dir=run.folder) as watched:
        watch = NetworkWatch(Path(watched))
        before = ["unshare", "-rmn", "sh", "-c", _CLOSED, str(run.folder)]
        code, said = run.finish(run.start(before, watch.environment))
        findings.count += 1
        if code != 0:
            findings.faults.append(f"exit {code}: {said[-600:]}")
        findings.faults += run.problems(expected.contents, all_there=True)
        findings.faults += watch.seen
        strangers = strangers_in(run.folder / "home")
        findings.faults += [f"writes {path} in the home" for path in strangers]
        beside = {path.name for path in run.folder.iterdir()}
        beside -= {"in", "out", "home", "tmp", Path(watched).name}
        findings.faults += [f"writes {name}" for name in sorted(beside)]
    yield findings


Disturb = Callable[[str, Undisturbed, random.Random, int], Iterator[Findings]]
DISTURBANCES: Mapping[str, tuple[Disturb, Callable[[str], int]]] = {
    "kills": (kill, lambda name: VERBS[name].kills),
    "disks": (fill, lambda name: VERBS[name].disks),
    "pairs": (double, lambda name: 3),
    "closed": (close, lambda name: 1),
}
"""Each with how often it happens to a verb."""


@contextmanager
def _run(name: str) -> Iterator[Run]:
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    try:
        yield Run(name, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
