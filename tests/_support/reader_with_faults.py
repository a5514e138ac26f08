"""A reader that does what no reader may: what it is fed says which."""

from __future__ import annotations

import ctypes
import random
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from adadm.runtime.errors import AdadmError
from fuzz.reader import Fault, Files, Reader


def _fault(_: Path) -> None:
    raise Fault("accepted, but changed")


def _refuse(_: Path) -> None:
    raise AdadmError("refused")


def _work_for_ever(_: Path) -> None:
    while True:
        pass


def _run_code(folder: Path) -> None:
    exec(compile("1 + 1", str(folder / "module.py"), "exec"))


WRONG: dict[str, Callable[[Path], object]] = {
    "ValueError": lambda _: int("x"),
    "MemoryError": lambda _: bytearray(6 << 30),
    "Fault in the harness: accepted": _fault,
    "writes": lambda folder: (folder.parent / "beside").write_text("x"),
    "os.remove": lambda folder: (folder.parent.parent / "none").unlink(missing_ok=True),
    "subprocess.Popen": lambda _: subprocess.run(["true"], check=True),
    "socket.": lambda _: socket.getaddrinfo("localhost", None),
    "runs": _run_code,
    "crash": lambda _: ctypes.string_at(0),
    "hangs": _work_for_ever,
}
"""Makers of faults, by how the cause of each begins or what it names."""

RIGHT: dict[str, Callable[[Path], object]] = {"accepted": lambda _: None, "refused": _refuse}


def _seeds() -> Mapping[str, Files]:
    return {"right": {"what": b"accepted"}}


def _mutate(files: Files, rng: random.Random) -> Files:
    return {"what": rng.choice([*RIGHT, *WRONG]).encode()}


def _read(folder: Path, seed: Files) -> object:
    return {**RIGHT, **WRONG}[(folder / "what").read_text()](folder)


READER = Reader(_seeds, _mutate, _read)
