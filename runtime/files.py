"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from adadm.runtime.leftovers import temporary_file


def cache_folder() -> Path:
    """Default folder for results that can be recomputed."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(folder):  # by the XDG specification, others do not count
        folder = os.path.expanduser("~/.cache")
    if folder.startswith("~"):  # there is no home
        folder = tempfile.gettempdir()
    return Path(folder) / "adadm"


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
    check_no_folder(target)  # before any of several files is written
    if is_special(target):
        raise OSError(errno.EINVAL, "Not a regular file", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            partial = stack.enter_context(temporary_file(target.parent, target.suffix))
        except OSError as error:  # which has the temporary name
            raise OSError(error.errno, error.strerror, str(target)) from error
        with naming(target, partial):
            yield partial
            umask = os.umask(0)
            os.umask(umask)
            partial.chmod(0o666 & ~umask)
            flush(partial)
            partial.replace(target)


def is_special(path: Path) -> bool:
    """True if a path is a device, a pipe, a socket or a stream of this process.

    Writing whole files would replace it: `/dev/null` would become a regular file.
    """
    if path.is_symlink() and os.readlink(path).startswith("/proc/"):
        return True  # /dev/stdout, whatever it leads to
    return path.exists() and not (path.is_file() or path.is_dir())


def check_readable(path: Path) -> None:
    """Refuse what is there but cannot be read as a file or a folder; what is missing passes.

    Raises:
        OSError: it is a device, a pipe or a socket, whose end may never come; or the system cannot
            look at it, as at a link to itself.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def check_writable(path: Path) -> None:
    """Refuse a path at which no file can come to be, before minutes of work.

    Raises:
        OSError: what is above it is no folder, or not ours to write; or the system cannot look at
            it, as at a link to itself.
    """
    try:
        above = path if stat.S_ISDIR(os.stat(path).st_mode) else path.parent
    except FileNotFoundError:
        above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{above} is not writable", str(path))


def check_no_folder(path: Path) -> None:
    """Refuse a folder where a file is to be written.

    Raises:
        IsADirectoryError: it is one.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; of a pipe, nobody would know the end.

    Raises:
        OSError: it is none, or cannot be opened. The error names the file.
    """
    check_readable(Path(path))  # a socket or a device may refuse to be opened
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))


def read_cache(path: Path, what: str, warn: Callable[[str], object]) -> bytes:
    """Content of a cache; empty if there is none that can be read.

    Args:
        what: what is in it, for the warning.
        warn: receives a warning if it is there, but cannot be read.
    """
    try:
        with opened(path) as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        warn(f"the {what} cache is not read: {described(error)}")
        return b""


def write_cache(path: Path, content: bytes, what: str, warn: Callable[[str], object]) -> None:
    """Write a cache; `warn` receives a warning if it cannot be written, which is no failure."""
    try:
        with written_whole(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        warn(f"the {what} cache is not kept: {described(error)}")


def not_kept(error: OSError) -> str:
    """Warning that a cache cannot be written, which is no failure."""
    return f"WARNING: the cache is not kept, and the next run measures again: {described(error)}"


def mistaken(start: bytes) -> str | None:
    """What stands in place of a binary file, and the remedy; None if it may be what it should.

    Args:
        start: first bytes of the file.
    """
    if not start:
        return "is empty; copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; get that with: git lfs pull"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)", start, re.IGNORECASE):
        return "is a web page, not the file itself; download it again, by the link to the raw file"
    return None


def described(error: OSError) -> str:
    """What a system error says, after the name of its file."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def real_path(path: Path) -> Path:
    """Absolute path without links; unlike `Path.resolve`, of a link to itself too."""
    return Path(os.path.realpath(path))


def path_inside(folder: Path, name: Any) -> Path:
    """Path of a file in a folder, by a name from elsewhere, such as a shipped manifest.

    Raises:
        TypeError: the name is not a string.
        ValueError: the name leads out of the folder, by itself or through links.
    """
    if type(name) is not str:
        raise TypeError(f"expected a file name, got {name!r}")
    root = real_path(folder)
    if root not in real_path(root / name).parents:
        raise ValueError(f"{name} is not inside {folder}")
    return folder / name


@contextmanager
def naming(path: Path, *others: Path) -> Iterator[None]:
    """Make system errors that name no file, or one of `others` or below, name `path`."""
    try:
        yield
    except OSError as error:
        found = None if error.filename is None else Path(os.fsdecode(error.filename))
        ours = found is None or any(other in (found, *found.parents) for other in others)
        if error.errno is None or not ours:
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
    with opened(path) as file:
        while chunk := file.read(1 << 20):  # hashlib.file_digest needs Python 3.11
            digest.update(chunk)
    return digest.hexdigest()
