"""Steps that are skipped while their inputs and outputs are unchanged.

The record of steps is a file in a folder that others may have written, and it decides which steps
are skipped and which files are removed. So it is not trusted: it may not name files outside its
folder, only its digests count, and only files made by a step are removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from adadm.runtime.files import path_inside, real_path, sha256_of
from adadm.runtime.json_format import as_json
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.records import read_record, write_record


@dataclass(frozen=True)
class Step:
    """Record of one step.

    Attributes:
        made_from: everything that the outputs depend on.
        outputs: digest of each file, by its path relative to the folder of the record.
    """

    made_from: Mapping[str, Any]
    outputs: Mapping[str, str]

    @property
    def stays_inside(self) -> bool:
        """True if no name, read by itself, leads out of the folder."""
        parts = [PurePosixPath(name).parts for name in self.outputs]
        return all(names and names[0] != "/" and ".." not in names for names in parts)


@dataclass(frozen=True)
class _Record:
    steps: Mapping[str, Step]
    format: Literal[1] = 1


class Steps:
    """Record of the files made in a folder, and of their inputs.

    Args:
        record: JSON file in the folder; if it is invalid, or names a file elsewhere, it is replaced
            by an empty one.
        kept: files that are never removed, whatever the record says.
        progress: receives a line when a step begins, and when it is done or up to date.

    Attributes:
        done, unchanged: number of steps that this object did, and did not need to do.
    """

    def __init__(
        self, record: Path, kept: Iterable[Path] = (), *, progress: Progress = SILENT
    ) -> None:
        self._progress = progress
        self._record, self.done, self.unchanged = record, 0, 0
        self._kept = {real_path(path) for path in kept}
        self._known: dict[str, Step] = {}
        known = read_record(_Record, record, partial(progress.message, warning=True))
        if known is not None and all(step.stays_inside for step in known.steps.values()):
            self._known = dict(known.steps)

    def run(
        self,
        name: str,
        made_from: Mapping[str, Any],
        outputs: Sequence[Path],
        make: Callable[[], object],
    ) -> None:
        """Do a step, unless its inputs and its outputs are unchanged.

        Args:
            name: name of the step, unique in the record.
            made_from: everything that the outputs depend on, as JSON values; digests for files.
            outputs: files and folders that the step makes; files of an earlier run are removed
                first.
        """
        step = self._known.get(name)
        made_from = as_json(made_from)
        if step is not None:
            if step.made_from == made_from and step.outputs == self._digests(outputs):
                self.unchanged += 1
                self._progress.message(f"{name}: up to date")
                return
            self._remove(step.outputs, outputs)
        self._progress.message(f"{name}: begun")
        started = time.monotonic()
        make()
        self._progress.message(f"{name}: done in {time.monotonic() - started:.0f} s")
        self.done += 1
        self._known[name] = Step(made_from, self._digests(outputs))
        write_record(self._record, _Record(self._known))

    def forget(self, name: str) -> None:
        """Forget a step, so that it is done again."""
        self._known.pop(name, None)

    def _digests(self, outputs: Sequence[Path]) -> dict[str, str]:
        """Digest of each file, by its path relative to the folder of the record."""
        files = [
            path
            for output in outputs
            for path in (sorted(output.rglob("*")) if output.is_dir() else [output])
            if path.is_file()
        ]
        folder = self._record.parent
        return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}

    def _remove(self, recorded: Mapping[str, str], outputs: Sequence[Path]) -> None:
        """Remove the earlier files of a step, and folders that are then empty.

        A recorded file is removed if it has the recorded digest, or lies among the outputs of the
        step. Targets of links elsewhere stay: the step overwrites them.
        """
        folders = set()
        for name, digest in recorded.items():
            try:
                path = path_inside(self._record.parent, name)
            except ValueError:
                continue
            if not path.is_file() or real_path(path) in self._kept:
                continue
            of_the_step = any(output == path or output in path.parents for output in outputs)
            if of_the_step or sha256_of(path) == digest:
                path.unlink()
                folders |= {p for p in path.parents if self._record.parent in p.parents}
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
