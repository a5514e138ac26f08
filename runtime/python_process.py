"""Running a module of the installed Python in a process of its own."""

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
    """As `python -m MODULE ARGUMENTS`, which finds no module in the working folder.

    `-m` puts that folder first on the path: a `json.py` there would run in place of Python's. `-P`
    leaves it out from Python 3.11 on; `-I` would leave out what users have installed for
    themselves too.

    Args:
        python: by default the one that runs.
    """
    return [os.fspath(python or sys.executable), "-c", _PROGRAM, module, *arguments]
