"""What is slow to make, made once for all workers of a run, and for later runs."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from _support.scripts import ROOT

_KEPT = ROOT / ".kept" / "tests"  # not .cache, which a build of the site empties
_SOURCES = ("export", "calibration", "runtime", "tests/_support")
_MOST_VERSIONS = 3
"""Of the sources. What the eldest have made is removed."""


def kept(make: Callable[[Path], object], *key: object) -> Path:
    """A folder that `make` has filled, and that no test may change.

    Args:
        make: fills an empty folder, by nothing but the key and the sources.
        key: what the content depends on, besides sources and installed packages.
    """
    name = _digest(f"{make.__module__}.{make.__qualname__} {key!r}".encode())
    folder = _made_of_these_sources() / name
    with _alone(folder):
        if not folder.exists():
            partial = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                make(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


@functools.cache
def _made_of_these_sources() -> Path:
    content = [version(package) for package in ("torch", "onnx", "onnx-ir", "onnxruntime", "numpy")]
    for source in _SOURCES:
        for path in sorted((ROOT / source).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content += [str(path), _digest(path.read_bytes())]
    folder = _KEPT / _digest("\n".join(content).encode())
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(_KEPT):
        folder.touch()
        for old in sorted(_KEPT.iterdir(), key=lambda path: path.stat().st_mtime)[:-_MOST_VERSIONS]:
            shutil.rmtree(old)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other worker is in the block for a folder."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]
