"""Steps that are not done again while what they come from, and what they made, is the same.

The record that says so is a file in a folder that others may have written: it decides what is not
done again, and what is removed. So it names nothing outside of its folder, is believed of nothing
but digests, and nothing is removed that a step did not make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from adadm.runtime.errors import AdadmError
from adadm.runtime.files import path_inside, sha256_of
from adadm.runtime.json_format import as_json, read, write


@dataclass(frozen=True)
class Step:
    """What a record has of a step.

    Attributes:
        made_from: all that the outputs depend on.
        outputs: the digest of each file by its name in the folder of the record.
    """

    made_from: Mapping[str, Any]
    outputs: Mapping[str, str]

    @property
    def stays_inside(self) -> bool:
        """Whether no name leads out of the folder, by itself."""
        parts = [PurePosixPath(name).parts for name in self.outputs]
        return all(names and names[0] != "/" and ".." not in names for names in parts)


@dataclass(frozen=True)
class _Record:
    steps: Mapping[str, Step]
    format: Literal[1] = 1


class Steps:
    """A record of what was made in a folder, and from what.

    Args:
        record: a JSON file in the folder; one that cannot be understood, or names a file elsewhere,
            is begun anew.
        kept: files that are never removed, whatever the record says.

    Attributes:
        done: how many steps had to be done by this object.
    """

    def __init__(self, record: Path, kept: Iterable[Path] = ()) -> None:
        self._record, self.done = record, 0
        self._kept = {path.resolve() for path in kept}
        self._known: dict[str, Step] = {}
        with suppress(AdadmError):  # there is none, or it is another's: every step is done
            steps = read(_Record, record, error=AdadmError).steps
            if all(step.stays_inside for step in steps.values()):
                self._known = dict(steps)

    def run(
        self,
        name: str,
        made_from: Mapping[str, Any],
        outputs: Sequence[Path],
        make: Callable[[], object],
    ) -> None:
        """Do a step, unless its outputs are those that it made from the same.

        Args:
            name: of the step, one in the record.
            made_from: all that the outputs depend on, as JSON has it; digests for files.
            outputs: files and folders that the step makes; what was made there before is removed
                first.
        """
        step = self._known.get(name)
        made_from = as_json(made_from)
        if step is not None:
            if step.made_from == made_from and step.outputs == self._digests(outputs):
                return
            self._remove(step.outputs, outputs)
        make()
        self.done += 1
        self._known[name] = Step(made_from, self._digests(outputs))
        write(self._record, _Record(self._known))

    def forget(self, name: str) -> None:
        """Let a step be done again."""
        self._known.pop(name, None)

    def _digests(self, outputs: Sequence[Path]) -> dict[str, str]:
        """Of each file, by its name in the folder of the record."""
        files = [
            path
            for output in outputs
            for path in (sorted(output.rglob("*")) if output.is_dir() else [output])
            if path.is_file()
        ]
        folder = self._record.parent
        return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}

    def _remove(self, recorded: Mapping[str, str], outputs: Sequence[Path]) -> None:
        """What a step made before, and nothing else; folders that are empty then go too.

        That is what has the digest that it had then, or lies where the step makes its outputs.
        What a link leads to elsewhere stays: the step writes over it.
        """
        folders = set()
        for name, digest in recorded.items():
            try:
                path = path_inside(self._record.parent, name)
            except ValueError:
                continue
            if not path.is_file() or path.resolve() in self._kept:
                continue
            of_the_step = any(output == path or output in path.parents for output in outputs)
            if of_the_step or sha256_of(path) == digest:
                path.unlink()
                folders |= {p for p in path.parents if self._record.parent in p.parents}
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
