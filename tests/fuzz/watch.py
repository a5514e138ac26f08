"""What a reader does besides reading, seen by Python's audit hook and in the folder around it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.reader import REFUSALS, Case, Fault, Reader, write_files

_PROCESSES = ("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system")
_ONE, _BOTH, _SECOND = slice(0, 1), slice(0, 2), slice(1, 2)
_CHANGES = {
    "os.remove": _ONE,
    "os.rename": _BOTH,
    "os.rmdir": _ONE,
    "os.mkdir": _ONE,
    "os.link": _SECOND,
    "os.symlink": _SECOND,
    "os.truncate": _ONE,
}
"""Events that change a folder, and which of their arguments name what they change."""
_RELATIVE = ("os.remove", "os.rmdir")
"""Those of `shutil.rmtree`, which names files in the folder that its second argument has open."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """A scratch folder for cases, and what was seen to leave it.

    An audit hook cannot be removed: a process has one watch.

    Attributes:
        case: folder of the case that is read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.case = folder / "case"
        self._seen: list[str] = []
        self._is_on = self._allows_processes = False
        self._allowed = tuple(f"{place}/" for place in (self.case, folder / "tmp"))
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        sys.addaudithook(self._audit)

    def read(self, reader: Reader, case: Case) -> BaseException | None:
        """Read a case; return why it was refused, None if it was accepted.

        Raises:
            Fault: it did what no reader may.
            BaseException: of the reader, if no refusal.
        """
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()
        write_files(self.case, case.files)
        self._seen.clear()
        self._allows_processes, self._is_on = reader.starts_processes, True
        refusal: BaseException | None = None
        try:
            reader.read(self.case, case.seed)
        except REFUSALS as error:
            str(error)
            refusal = error
        finally:
            self._is_on = False
        seen = [*self._seen, *self._strangers()]
        if seen:
            raise Fault("; ".join(seen[:5]))
        return refusal

    def _strangers(self) -> list[str]:
        """What lies beside the folder of the case, such as a file `../x`."""
        strangers = [path for path in self._folder.iterdir() if path.name not in ("case", "tmp")]
        for path in strangers:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [f"made {path.name} beside its folder" for path in strangers]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            self._check_place("writes", arguments[0])
        elif event in _CHANGES:
            inside = arguments[1] if event in _RELATIVE else -1
            for path in arguments[_CHANGES[event]]:
                self._check_place(event, path, inside)
        elif event == "exec" and arguments[0].co_filename.startswith(str(self._folder)):
            self._seen.append(f"runs {arguments[0].co_filename}")
        elif event in _PROCESSES and not self._allows_processes:
            self._seen.append(f"{event} {arguments[0]!r}")
        elif event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
            self._seen.append(f"{event} {arguments[1:]!r}")

    def _check_place(self, what: str, path: object, inside: int = -1) -> None:
        """Note a change elsewhere; `inside` is the descriptor of a folder, if it is not -1."""
        if isinstance(path, int):  # a descriptor that is open already
            return
        folder = os.getcwd() if inside == -1 else os.readlink(f"/proc/self/fd/{inside}")
        place = os.path.abspath(os.path.join(folder, os.fsdecode(path)))  # type: ignore[arg-type]
        if not f"{place}/".startswith(self._allowed) and place != os.devnull:
            self._seen.append(f"{what} {place}")


def is_fault(watch: Watch, reader: Reader) -> Callable[[Case], bool]:
    """Whether a case fails, for the search of the least that does."""

    def fails(case: Case) -> bool:
        try:
            watch.read(reader, case)
        except Exception:  # noqa: BLE001
            return True
        return False

    return fails
