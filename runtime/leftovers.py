"""Temporary files and folders, and the removal of those that killed runs have left.

Who works on one holds a lock on it, which ends with the process, however that ends. What has a name
of ours and no lock is left over.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

_PREFIX = ".adadm-"
_NAME = re.compile(r"\.adadm-[a-z0-9_]{8}(\..*)?", re.DOTALL)


@contextmanager
def temporary_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a new empty file, which is removed at the end unless it was renamed.

    Raises:
        OSError: it cannot be made.
    """

    def make() -> str:
        descriptor, name = tempfile.mkstemp(suffix, _PREFIX, folder)
        os.close(descriptor)
        return name

    with _locked(folder, make) as path:
        yield path


@contextmanager
def temporary_folder(folder: Path | None = None) -> Iterator[Path]:
    """Yield a new empty folder, which is removed at the end unless it was renamed.

    Args:
        folder: where it is made; None for that of the system.

    Raises:
        OSError: it cannot be made.
    """
    folder = folder or Path(tempfile.gettempdir())
    with _locked(folder, lambda: tempfile.mkdtemp(prefix=_PREFIX, dir=folder)) as path:
        yield path


@contextmanager
def _locked(folder: Path, make: Callable[[], str]) -> Iterator[Path]:
    _remove_leftovers(folder.absolute())
    while True:
        path = Path(make())
        with suppress(FileNotFoundError):  # another process took it for left over: once more
            lock = _open(path)
            with suppress(OSError):  # a file system without locks, where nothing is removed
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_open(path, lock):
                break
            os.close(lock)
    try:
        yield path
    finally:
        _remove(path)
        os.close(lock)


@cache
def _remove_leftovers(folder: Path) -> None:
    """Remove what killed runs have left in a folder; once in a process."""
    for name in os.listdir(folder) if os.access(folder, os.R_OK) else ():
        path = folder / name
        if not _NAME.fullmatch(name) or not (path.is_file() or path.is_dir()):
            continue
        with suppress(OSError), ExitStack() as stack:
            lock = _open(path)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_open(path, lock):
                _remove(path)


def _open(path: Path) -> int:
    access = os.O_RDONLY if path.is_dir() else os.O_RDWR  # without which NFS gives no lock
    return os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _is_open(path: Path, descriptor: int) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
