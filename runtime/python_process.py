"""Run a module of the installed Python in its own process, which does not outlive this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

# Where the parent is killed, the kernel kills the child too (PR_SET_PDEATHSIG).
_PROGRAM = """\
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
import ctypes
if hasattr(ctypes.CDLL(None), "prctl"):
    ctypes.CDLL(None).prctl(1, 9)
from runpy import run_module
run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def python_command(
    module: str, *arguments: str, python: str | os.PathLike[str] | None = None
) -> list[str]:
    """A command like `python -m MODULE ARGUMENTS` that ignores modules in the working folder.

    `-m` puts that folder first on the path: a `json.py` there would run in place of Python's. `-P`
    prevents that, but needs Python 3.11; `-I` would also hide the packages that users installed
    for themselves.

    Args:
        python: interpreter; by default the running one.
    """
    return [os.fspath(python or sys.executable), "-c", _PROGRAM, module, *arguments]


_RUNNING: set[subprocess.Popen[bytes]] = set()


def run_child(
    command: Sequence[str],
    *,
    content: bytes = b"",
    seconds: float | None = None,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of `python_command`, and return what it writes.

    It ends with all that it started: after its time, where `end_children` is called, as by Ctrl-C,
    and where this process is killed.

    Args:
        content: what it reads from stdin.
        seconds: limit of time; None for none.
        pass_fds: file descriptors that it inherits.
        environment: its environment; by default that of this process.

    Raises:
        subprocess.TimeoutExpired: it is not done in time.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        pass_fds=pass_fds,
        env=environment,
        start_new_session=True,
    ) as child:
        _RUNNING.add(child)
        try:
            out, err = child.communicate(content, seconds)
        except BaseException:
            _end(child)
            raise
        finally:
            _RUNNING.discard(child)
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def end_children() -> None:
    """End what `run_child` runs in any thread; whoever waits for it finds that it was killed."""
    for child in tuple(_RUNNING):
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
