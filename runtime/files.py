"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where results are kept that can be made again, if nothing else is asked."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "adadm"


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it on success, remove it on any failure.

    What the kernel still holds is on the disk before the name is there: some file systems tell
    only then that the disk is full, and after a power cut the file would be empty.

    Args:
        path: the file to write. Its folder is made when missing. The temporary name keeps the
            suffix, because image libraries choose the format by it. Libraries that write into a
            file descriptor by themselves may not look at how much was taken (Pillow does not): let
            them write into memory.

    Raises:
        OSError: there is a folder or a device of that name, or the file cannot be made or
            written. It names the file, also where the failed write does not.
    """
    target = Path(path)
    if target.is_dir():  # now: of several files, others would be there when the renaming fails
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if is_special(target):
        raise OSError(errno.EINVAL, "It is no regular file", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent
        )
    except OSError as error:  # of the temporary name, which nobody asked for
        raise OSError(error.errno, error.strerror, str(target)) from error
    os.close(handle)
    partial = Path(name)
    try:
        with naming(target, name, partial):
            yield partial
            umask = os.umask(0)
            os.umask(umask)
            partial.chmod(0o666 & ~umask)
            flush(partial)
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def is_special(path: Path) -> bool:
    """Whether a name is that of a device, a pipe, a socket or a stream of this process.

    A file could only take its place: `/dev/null` would be one from then on.
    """
    if path.is_symlink() and os.readlink(path).startswith("/proc/"):
        return True  # /dev/stdout, whatever it leads to
    return path.exists() and not (path.is_file() or path.is_dir())


def path_inside(folder: Path, name: Any) -> Path:
    """Where a file of a folder is that others name, such as a manifest that came with it.

    Raises:
        TypeError: the name is no text.
        ValueError: it leads out of the folder, by itself or through links.
    """
    if type(name) is not str:
        raise TypeError(f"{name!r} is no name of a file")
    root = folder.resolve()
    if root not in (root / name).resolve().parents:
        raise ValueError(f"{name} is not in {folder}")
    return folder / name


@contextmanager
def naming(path: Path, *others: str | Path) -> Iterator[None]:
    """Let an error of the system that names no file, as of a write, or another, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, *others):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def flush(path: Path) -> None:
    """Wait until a file is on the disk.

    Raises:
        OSError: it cannot get there, as on a full disk.
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):  # hashlib.file_digest needs Python 3.11
            digest.update(chunk)
    return digest.hexdigest()
