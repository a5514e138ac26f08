"""Child processes: none outlives what it was started for."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from _support.waiting import finish, started, wait_until
from adadm.runtime.python_process import python_command, run_child

# A verb that has a temporary file and a child, which has a child that closes nothing.
VERB = """
import sys
from adadm.runtime.cli import run
from adadm.runtime.files import written_whole
from adadm.runtime.python_process import run_child
GRANDCHILD = "import time; print(1, flush=True); time.sleep(999)"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GRANDCHILD!r}])"

def verb(arguments):
    with written_whole(arguments[0]) as partial:
        partial.write_text("half")
        print("working", flush=True)
        run_child([sys.executable, "-c", CHILD])

sys.exit(run("verb", verb, sys.argv[1:]))
"""
HEEDED = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)"
"""For tests that run under `nohup`."""


def alive(pids: list[int]) -> bool:
    return any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        for pid in pids
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_verb_and_all_that_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    with started([sys.executable, "-c", HEEDED + VERB, str(tmp_path / "a.txt")]) as process:
        assert process.stdout is not None and process.stdout.readline() == "working\n"
        verb = psutil.Process(process.pid)
        wait_until(lambda: len(verb.children(recursive=True)) == 2, process)
        children = [child.pid for child in verb.children(recursive=True)]
        process.send_signal(number)
        process.send_signal(number)  # amid the cleaning up
        code, _, errors = finish(process)
    assert (code, errors) == (1, "verb: stopped\n")
    assert list(tmp_path.iterdir()) == []
    assert not alive(children)


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    with started(["nohup", sys.executable, "-c", VERB, str(tmp_path / "a.txt")]) as process:
        assert process.stdout is not None and process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        code, _, errors = finish(process)
    assert (code, errors) == (1, "verb: stopped\n")


def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    work = f"import time; open({str(begun)!r}, 'w').close(); time.sleep(999)"
    program = (
        "from adadm.runtime.python_process import python_command, run_child\n"
        f"run_child(python_command('timeit', '-n1', '-r1', {work!r}))"
    )
    with started([sys.executable, "-c", program]) as process:
        parent = psutil.Process(process.pid)
        wait_until(begun.exists, process)
        (child,) = parent.children()
        process.kill()
        process.wait()
        child.wait(timeout=60)


def test_a_child_has_its_time() -> None:
    command = python_command("timeit", "-n1", "-r1", "import time; time.sleep(999)")
    with pytest.raises(subprocess.TimeoutExpired):
        run_child(command, seconds=0.5)
    assert psutil.Process().children() == []
