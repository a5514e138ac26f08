"""Progress reports of long work, and the bar that shows them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display
from rich.progress import track as rich_track  # noqa: TID251
from rich.text import Text

from adadm.runtime.tables import Console
from adadm.runtime.terminal import shown

Item = TypeVar("Item")


class Progress:
    """Receiver of progress reports, from any thread; this one shows nothing.

    Work goes through phases. The amount of work is known for some of them.
    """

    def phase(self, text: str) -> None:
        """Begin a phase, described in a few words."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Report `done` of `total` steps of the phase, and a note on the current one."""

    def message(self, text: str, *, warning: bool = False) -> None:
        """Print a line that stays."""


def track(items: Iterable[Item], text: str) -> Iterable[Item]:
    """Yield items, with a bar on stderr while they are worked on, if that is a terminal."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return rich_track(items, escape(shown(text)), console=console, disable=hidden)


SILENT = Progress()


class StepCount:
    """Counts the steps of one image, and reports its first fault."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0
        self.warned = False

    def warn(self, fault: str) -> None:
        if fault and not self.warned:
            self.warned = True
            self.progress.message(f"WARNING: {fault}", warning=True)

    def one_more(self) -> None:
        self.done += 1
        self.total = max(self.total, self.done)
        self.progress.advance(self.done, self.total)


class Bar(Progress):
    """A bar on stderr while its block runs, if that is a terminal. Messages always appear.

    Args:
        text: description of the first phase.
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
        """A second bar in the same block, for the parts of one step of this one."""
        other = copy.copy(self)
        other._task = other._add("")
        return other

    def phase(self, text: str) -> None:
        self._display.remove_task(self._task)
        self._task = self._add(text)

    def advance(self, done: int, total: int, note: str = "") -> None:
        count = f"{done}/{total}"
        note = shown(note)
        self._display.update(self._task, completed=done, total=total, count=count, note=note)

    def message(self, text: str, *, warning: bool = False) -> None:
        styled = Text(
            shown(text), "yellow" if warning else ""
        )  # the style of this line alone, not of the bar below it
        self._display.console.print(styled, soft_wrap=True)

    def _add(self, text: str) -> TaskID:
        text = shown(text)
        return self._display.add_task(text, total=None, visible=bool(text), count="", note="")
