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
    """Default folder for results that can be recomputed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "adadm"


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it on success, remove it on any failure.

    The content is flushed to the disk before the rename: some file systems report a full disk
    only then, and without it a power cut could leave an empty file.

    Args:
        path: the file to write. Its folder is made if missing. The temporary name keeps the
            suffix, because image libraries choose the format by it. A library that writes into a
            file descriptor itself may ignore short writes (Pillow does): let it write into memory.

    Raises:
        OSError: a folder or a device has that name, or the file cannot be made or written. The
            error always names the file.
    """
    target = Path(path)
    if target.is_dir():  # before any of several files is written
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if is_special(target):
        raise OSError(errno.EINVAL, "Not a regular file", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent
        )
    except OSError as error:  # which has the temporary name
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
    """True if a path is a device, a pipe, a socket or a stream of this process.

    Writing whole files would replace it: `/dev/null` would become a regular file.
    """
    if path.is_symlink() and os.readlink(path).startswith("/proc/"):
        return True  # /dev/stdout, whatever it leads to
    return path.exists() and not (path.is_file() or path.is_dir())


def path_inside(folder: Path, name: Any) -> Path:
    """Path of a file in a folder, by a name from elsewhere, such as a shipped manifest.

    Raises:
        TypeError: the name is not a string.
        ValueError: the name leads out of the folder, by itself or through links.
    """
    if type(name) is not str:
        raise TypeError(f"expected a file name, got {name!r}")
    root = folder.resolve()
    if root not in (root / name).resolve().parents:
        raise ValueError(f"{name} is not inside {folder}")
    return folder / name


@contextmanager
def naming(path: Path, *others: str | Path) -> Iterator[None]:
    """Make system errors that name no file, or one of `others`, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, *others):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def flush(path: Path) -> None:
    """Wait until a file is on the disk.

    Raises:
        OSError: the file cannot be flushed, as on a full disk.
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
