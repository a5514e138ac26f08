"""Tables of figures on a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


def make_table(
    title: str | None,
    headers: Sequence[str],
    *,
    left: Collection[str] = (),
    fold: Collection[str] = (),
    **style: Any,
) -> Table:
    """An empty table whose columns hold right-aligned figures.

    Args:
        left: headers of the columns that hold words, left-aligned.
        fold: headers of the columns that wrap on a narrow terminal.
        style: further options of `rich.table.Table`.
    """
    table = Table(title=title, box=SIMPLE_HEAD, **style)
    for header in headers:
        if header in fold:
            table.add_column(header, overflow="fold")
        else:
            table.add_column(header, justify="left" if header in left else "right", no_wrap=True)
    return table
