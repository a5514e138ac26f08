"""How long work tells what it does, and the bar that shows it."""

from __future__ import annotations

import copy

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display
from rich.text import Text


class Progress:
    """What long work calls, from any thread; this one shows nothing.

    Work goes through phases. Of some it is known how much there is to do.
    """

    def phase(self, text: str) -> None:
        """A phase begins: what is done, in a few words."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """So much of the phase is done, of so much; and what it found, or is at."""

    def message(self, text: str, *, warning: bool = False) -> None:
        """A line that stays."""


SILENT = Progress()


class Bar(Progress):
    """A bar on a terminal's stderr, while its block runs; messages anywhere and at any time.

    Args:
        text: what is done at the beginning.
    """

    def __init__(self, text: str = "") -> None:
        console = Console(stderr=True)
        self._display = Display(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", style="green"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._add(text)

    def __enter__(self) -> Bar:
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.stop()

    def beneath(self) -> Bar:
        """A second bar of the same block, such as of a part of what this one counts."""
        other = copy.copy(self)
        other._task = other._add("")
        return other

    def phase(self, text: str) -> None:
        self._display.remove_task(self._task)
        self._task = self._add(text)

    def advance(self, done: int, total: int, note: str = "") -> None:
        count = f"{done}/{total}"
        self._display.update(self._task, completed=done, total=total, count=count, note=note)

    def message(self, text: str, *, warning: bool = False) -> None:
        styled = Text(text, "yellow" if warning else "")  # of the line, not of the bar below it
        self._display.console.print(styled, soft_wrap=True)

    def _add(self, text: str) -> TaskID:
        return self._display.add_task(text, total=None, visible=bool(text), count="", note="")
