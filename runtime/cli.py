"""The command `adadm VERB ...`: a table of verbs, imported when they are called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, ModuleType
from typing import NamedTuple

from adadm.runtime.errors import AdadmError, MissingDependencyError
from adadm.runtime.files import described
from adadm.runtime.python_process import end_children
from adadm.runtime.terminal import shown, standard_streams


class Verb(NamedTuple):
    """A module with `main(argv) -> None`, the extras that it needs, and one line of help."""

    module: str
    extra: str
    summary: str


_TABLE = """
export    export.to_onnx  export,cpu  convert a trained checkpoint to an exact ONNX model
quantize  calibration.quantize  quantize  lower a network to FP16 or INT8, under a budget in dB
validate  deployment.validate  validate  certify that a deployed model matches its reference
inspect   deployment.inspect_network  quantize  show what will cost quality in deployment
ship      deployment.ship  validate  do all of it, from a checkpoint to certified bundles
build     runtime.build_engine  rtx  build a TensorRT engine, with a manifest of its origin
bundle    deployment.bundle  quantize  pack a folder that a Jetson builds and checks by itself
upscale   runtime.upscale  photos,cpu  upscale photographs of any size, whole or in tiles
doctor    runtime.doctor  cpu  report what works on this machine, and how to repair the rest
"""
_ROWS = (line.split(maxsplit=3) for line in _TABLE.strip().splitlines())

VERBS = {name: Verb(f"adadm.{module}", *rest) for name, module, *rest in _ROWS}

DONE, FAILED, USAGE = 0, 1, 2

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the end of a session or a machine, and a terminal that is closed."""
_BURST_S = 2.0
"""Signals that follow one another sooner are one; a later Ctrl-C ends the cleaning up."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `adadm` and return the exit code: 0 done, 1 failed, 2 usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, *rest = arguments or ["--help"]
    if name in VERBS:
        return run(f"adadm {name}", lambda rest: _load(VERBS[name]).main(rest), rest)
    if name in ("-h", "--help"):
        failed = run("adadm", lambda _: print(_help()), [])
        return failed or (DONE if arguments else USAGE)
    if name == "--version":
        from importlib.metadata import version

        return run("adadm", lambda _: print(f"adadm {version('adadm-deploy')}"), [])
    with standard_streams():
        _complain("adadm", f"expected a verb ({', '.join(VERBS)}), got {name!r}")
    return USAGE


def _load(verb: Verb) -> ModuleType:
    try:
        return importlib.import_module(verb.module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "adadm"):  # our mistake, not the installation's
            raise
        raise MissingDependencyError(missing, verb.extra) from error


def run(program: str, verb: Callable[[list[str]], object], arguments: list[str]) -> int:
    """Run a verb; turn its exception into an exit code and a message on stderr.

    A signal of `STOPPING` ends its child processes, and is raised in it as a `KeyboardInterrupt`,
    so that temporary files are removed.
    """
    with standard_streams(), _stoppable():
        try:
            try:
                verb(arguments)
            except SystemExit:  # of argparse, after the help
                _flush_output()
                raise
            _flush_output()
            return DONE
        except AdadmError as error:
            _complain(program, error)
        except OSError as error:
            _complain(program, described(error))
        except MemoryError:
            _complain(program, "out of memory")
        except KeyboardInterrupt:
            _complain(program, "stopped")
    return FAILED


@contextmanager
def _stoppable() -> Iterator[None]:
    """Handle signals while the block runs. Those that are ignored stay so, as under `nohup`.

    Once it was stopped, the process is about to end: no signal changes its exit code any more.
    """
    handled = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        handled = []

    stopped_at: list[float] = []

    def stop(_number: int, _frame: FrameType | None) -> None:
        if stopped_at and time.monotonic() - stopped_at[-1] < _BURST_S:
            return
        stopped_at.append(time.monotonic())
        for number in set(handled) - {signal.SIGINT}:
            signal.signal(number, signal.SIG_IGN)  # a shell sends a second one amid the cleaning up
        end_children()
        raise KeyboardInterrupt

    before = [signal.signal(number, stop) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, signal.SIG_IGN if stopped_at else handler)


def _complain(program: str, problem: object) -> None:
    """Print a problem on stderr, after what is on stdout."""
    with suppress(OSError):
        _flush_output()
    with suppress(OSError):
        print(f"{program}: {shown(problem)}", file=sys.stderr, flush=True)


def _flush_output() -> None:
    """Flush stdout, or fail. At exit, Python would only warn of output that it cannot write.

    Raises:
        OSError: the output cannot be written, as on a full disk.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else Python tries again at exit
        raise OSError(error.errno, error.strerror, "standard output") from error


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: adadm VERB ...\n\n"
        "Deploy super-resolution networks with AdaDM: exact ONNX, TensorRT engines.\n\n"
        f"verbs:\n{verbs}\n\n"
        "  adadm VERB --help   the options of a verb\n"
        "  adadm --version     the version"
    )
