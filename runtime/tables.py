"""Tables of figures on a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from adadm.runtime.terminal import shown


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


def as_cell(text: object) -> str:
    """Text of others, such as a name, for a cell or a line with markup."""
    return escape(shown(text))
