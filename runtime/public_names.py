"""Public names of a layer, imported on first use: `adadm --help` needs none, a verb few."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def import_on_first_use(package: str, init: str) -> tuple[list[str], Callable[[str], Any]]:
    """Make the `__all__` and the `__getattr__` of a package.

    The names come from the list that type checkers read: `from MODULE import NAME as NAME` under
    `if TYPE_CHECKING:` in the `__init__`.

    Args:
        package: its `__name__`.
        init: its `__file__`.
    """
    blocks = [node for node in ast.parse(Path(init).read_bytes()).body if isinstance(node, ast.If)]
    imports = [node for node in blocks[0].body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return sorted(homes), attribute
