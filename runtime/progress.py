"""The bar of a command that goes through stages, of which some can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

__all__ = ["Stages", "staged"]


@dataclass(frozen=True)
class Stages:
    """What long work calls.

    Attributes:
        console: prints above the bar.
    """

    console: Console
    _progress: Progress
    _bar: TaskID

    def on_stage(self, text: str) -> None:
        """A stage begins."""
        self._progress.reset(self._bar, description=text, total=None, found="")

    def on_step(self, done: int, total: int, found: str) -> None:
        """Of the stage so much is done; and what was found last."""
        self._progress.update(self._bar, completed=done, total=total, found=found)


@contextmanager
def staged(console: Console, first: str = "") -> Iterator[Stages]:
    """Show a bar on a terminal, until the work is done.

    Args:
        first: what is done at the beginning.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]}", style="dim", markup=False),
        console=console,
        transient=True,
    ) as progress:
        yield Stages(progress.console, progress, progress.add_task(first, total=None, found=""))
