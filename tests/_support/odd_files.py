"""What people have in place of files and folders."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)
    os.chdir(here)


NOT_READABLE: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
"""Makers of what is no file, by its name."""


def _file(path: Path) -> Path:
    path.write_text("a file")
    return path


def _loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


NOT_WRITABLE: dict[str, Callable[[Path], Path]] = {
    "a file": _file,
    "below a file": lambda path: _file(path) / "below",
    "a link to itself": _loop,
    "too long": lambda path: path / ("n" * 300),
    "of the system": lambda _: Path("/proc/adadm"),
}
"""Makers of folders that cannot be written, not even by root: each returns its folder."""
