"""A way into the toolkit that is fed with damaged files."""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adadm.runtime.errors import AdadmError

Files = Mapping[str, bytes]
"""A case: contents by file name, relative to a folder; a name may have folders in it."""


class Fault(Exception):
    """What was accepted is wrong."""


REFUSALS = (AdadmError, OSError)
"""What the command line turns into one message."""


@dataclass(frozen=True)
class Reader:
    """A reader, and how to feed it.

    Attributes:
        seeds: returns whole cases by name, the same in each process.
        mutate: returns a changed case; it draws from the generator alone.
        read: reads a case from a folder. It returns if the case is accepted, raises one of
            `REFUSALS` if it is refused, and a `Fault` if what it accepts is wrong. It is given the
            seed that the case was made from, too.
        starts_processes: whether `read` may start some.
    """

    seeds: Callable[[], Mapping[str, Files]]
    mutate: Callable[[Files, random.Random], Files]
    read: Callable[[Path, Files], object]
    starts_processes: bool = False


@dataclass(frozen=True)
class Case:
    """A case, and the seed that it was made from."""

    files: Files
    seed: Files


def reader_names() -> list[str]:
    """Names of all readers."""
    package = importlib.import_module("fuzz.readers")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load_reader(name: str) -> Reader:
    """Import a reader by its name, or by that of a module elsewhere."""
    reader: Reader = importlib.import_module(name if "." in name else f"fuzz.readers.{name}").READER
    return reader


def make_case(
    reader: Reader, seeds: Mapping[str, Files], seed: int, index: int, only: str | None = None
) -> Case:
    """The case of an index, the same in each run.

    Args:
        seeds: of the reader.
        seed: of the run.
        only: name of the seed to mutate; by default one is drawn.
    """
    rng = random.Random(f"{seed}/{index}")
    chosen = seeds[only or rng.choice(sorted(seeds))]
    return Case(reader.mutate(chosen, rng), chosen)


def write_files(folder: Path, files: Files) -> None:
    """Write the files of a case. Names stay in the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_files(folder: Path) -> Files:
    """The files of a case that was written."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
