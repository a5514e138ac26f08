"""Run a module of the installed Python in its own process."""

from __future__ import annotations

import os
import sys

_PROGRAM = """\
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
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
