"""Tables of figures and lines of text on a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole  # noqa: TID251 - the one place
from rich.table import Table
from rich.text import Text

from adadm.runtime.terminal import shown


class Console(RichConsole):
    """A console on which text is what it says: no markup, nothing that steers a terminal.

    Names of files and of layers may hold both. Styles come with `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown(text), **options)


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
