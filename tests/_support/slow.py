"""Slow tests: which rows of a parametrization are, and which are due in a run that takes a share.

Due are those of what the last commits changed, and a part of the others that depends on the day.
"""

from __future__ import annotations

import re
import subprocess
import zlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path, PurePath

import pytest
from _pytest.mark import ParameterSet

COMMITS = 10


def slow_unless(fast: Callable[..., bool], rows: Iterable[object]) -> list[ParameterSet]:
    """Rows, single values or tuples of them, which are slow unless `fast` holds of the values."""
    values = [row if isinstance(row, tuple) else (row,) for row in rows]
    return [pytest.param(*v, marks=() if fast(*v) else pytest.mark.slow) for v in values]


def changed_files(repository: Path) -> set[str]:
    """What the last commits touched, as far as a shallow clone has them; nothing without Git."""
    log = ["log", f"-{COMMITS}", "--name-only", "--format="]
    command = ["git", "-c", "core.quotePath=false", *log]
    try:
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return set()
    return set(done.stdout.split("\n")) - {""}


def imported(test: Path) -> set[str]:
    """The modules, and the rooms by themselves, that a file of tests imports; without suffix."""
    text = test.read_text(encoding="utf-8")
    found = set()
    for module, name in re.findall(r"^ *from (\S+) import (\w*)", text, re.MULTILINE):
        path = PurePath(module.removeprefix("adadm.").replace(".", "/"), name)
        found |= {path.as_posix(), path.parent.as_posix()}
    return {f"tests/{path}" if path.startswith("_support") else path for path in found}


def is_due(test: str, read: Collection[str], changed: Iterable[str], share: str) -> bool:
    """Whether a slow test runs.

    Args:
        test: its name, which begins with its file.
        read: what its file imports.
        share: the part and how many there are, such as `2/4`.
    """
    part, parts = map(int, share.split("/"))
    if zlib.crc32(test.encode()) % parts == part % parts:
        return True
    paths = [PurePath(name) for name in changed]
    touched = {p.as_posix() for path in paths for p in (path, path.with_suffix(""), path.parent)}
    return not touched.isdisjoint({test.partition("::")[0], *read})
