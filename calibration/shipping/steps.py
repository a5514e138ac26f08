"""Steps that are not done again while what they come from, and what they made, is the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adadm.runtime.files import sha256_of, written_whole

__all__ = ["Steps"]

_FORMAT = 1


class Steps:
    """A record of what was made in a folder, and from what.

    Args:
        record: a JSON file in the folder; one that cannot be understood is begun anew.

    Attributes:
        done: how many steps had to be done by this object.
    """

    def __init__(self, record: Path) -> None:
        self._record, self.done = record, 0
        self._known: dict[str, dict[str, Any]] = {}
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            if content["format"] == _FORMAT:
                self._known = dict(content["steps"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or it is another's: every step is done

    def run(
        self,
        name: str,
        made_from: Mapping[str, Any],
        outputs: Sequence[Path],
        make: Callable[[], Any],
    ) -> Any:
        """Do a step, or remember what it returned.

        Args:
            name: of the step, one in the record.
            made_from: all that the outputs depend on, as JSON has it; digests for files.
            outputs: files and folders that the step makes; what was made there before is removed
                first.
            make: returns what JSON can hold.
        """
        found = self._known.get(name)
        made_from = json.loads(json.dumps(made_from))
        if found is not None:
            if found["made_from"] == made_from and found["outputs"] == self._digests(outputs):
                return found["result"]
            self._remove(found["outputs"])
        result = json.loads(json.dumps(make()))
        self.done += 1
        self._known[name] = {
            "made_from": made_from,
            "outputs": self._digests(outputs),
            "result": result,
        }
        content = {"format": _FORMAT, "steps": self._known}
        with written_whole(self._record) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return result

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

    def _remove(self, outputs: Mapping[str, str]) -> None:
        """What a step made before, and nothing else; folders that are empty then go too."""
        folders = set()
        for name in outputs:
            path = self._record.parent / name
            path.unlink(missing_ok=True)
            folders |= {p for p in path.parents if self._record.parent in p.parents}
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
