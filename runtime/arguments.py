"""Arguments that verbs share: numbers, targets, and paths, of which none is read and written."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from adadm.runtime.errors import OutputError
from adadm.runtime.files import is_special
from adadm.runtime.images.arrays import images_in
from adadm.runtime.models.bundled import companion_files
from adadm.runtime.targets import TARGETS, Target


def positive(text: str) -> int:
    """The type of a whole number from 1 on."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def above_zero(text: str) -> float:
    """The type of a finite number above 0."""
    if not 0 < _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return float(text)


def decibels(text: str) -> float:
    """The type of a finite number of dB from 0 on."""
    if not 0 <= _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of dB from 0 on")
    return float(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def size(text: str) -> tuple[int, int, int]:
    """The type of N, H and W."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not NxHxW, such as 1x270x480")
    return int(match[1]), int(match[2]), int(match[3])


def add_target(
    parser: argparse.ArgumentParser, targets: Mapping[str, Target] = TARGETS, **options: Any
) -> None:
    """Add `--target`, which must be given where `options` have no default."""
    default = options.get("default")
    listed = "; ".join(f"{name}: {target.description}" for name, target in targets.items())
    parser.add_argument(
        "--target",
        choices=targets,
        required=default is None,
        metavar="T",
        help=f"default: {default}. {listed}" if default else listed,
        **options,
    )


class Paths:
    """Collects paths while `argparse` reads them: `type=paths.read`, `type=paths.written`.

    paths = Paths()
    parser.add_argument("source", type=paths.read)
    parser.add_argument("-o", "--output", type=paths.written)
    arguments = parser.parse_args(argv)
    paths.check(writes=[arguments.output.with_suffix(".json")])
    """

    def __init__(self) -> None:
        self._reads: list[Path] = []
        self._writes: list[Path] = []

    def read(self, text: str) -> Path:
        """The type of an argument that names a file, or a folder of images, that is read."""
        self._reads.append(Path(text))
        return Path(text)

    def model(self, text: str) -> str:
        """The type of one that names a model, with what lies beside it and belongs to it."""
        self._reads += companion_files(text)
        return text

    def written(self, text: str | Path) -> Path:
        """The type of one that names a file, or a folder, that is written."""
        self._writes.append(Path(text))
        return Path(text)

    def written_as(self, *suffixes: str) -> Callable[[str], Path]:
        """The type of one that names a file that is written, and ends in one of some suffixes."""
        return partial(self._written_as, suffixes)

    def _written_as(self, suffixes: Sequence[str], text: str) -> Path:
        if Path(text).suffix not in suffixes:
            expected = " or ".join(suffixes)
            raise argparse.ArgumentTypeError(f"{text!r}: expected a name that ends in {expected}")
        return self.written(text)

    def check(
        self, reads: Iterable[Path] = (), writes: Iterable[Path] = (), rewrites: Iterable[Path] = ()
    ) -> None:
        """Refuse to write what is read, and to write anything twice.

        Args:
            reads, writes: what follows from the arguments, such as a file beside the output.
            rewrites: what is there from before, and may be written again; links among them are
                as they were left.

        Raises:
            OutputError: as `check_outputs` does.
        """
        once = {_identity(path): path for path in rewrites}
        for written in ([*self._writes, *writes], list(once.values())):
            check_outputs([*self._reads, *reads], written)


def check_outputs(reads: Sequence[Path], writes: Sequence[Path]) -> None:
    """Refuse outputs of which one is an input, another output, or no file at all.

    Links to the same file are that file. A folder that is read stands for the images in it; one
    that is written for nothing, since what is written into it is given by itself.

    Raises:
        OutputError: one is.
    """
    for path in writes:
        if is_special(path):
            raise OutputError(f"{path} is no regular file: give the name of a file to write")
    files = list(reads)
    if any(path.exists() for path in writes):  # or it could be none of the images in a folder
        folders = [path for path in files if path.is_dir()]
        files += [file for folder in folders for file in images_in(folder)]
    clash = find_clash(files, writes)
    if clash is None:
        return
    index, is_read, other = clash
    output, same = writes[index], files[other] if is_read else writes[other]
    named = f"{output}" if str(output) == str(same) else f"{output}, the same file as {same},"
    if is_read:
        raise OutputError(f"{named} is read, and writing it would destroy it: give another name")
    raise OutputError(f"{named} would be written twice: give different names")


def find_clash(reads: Sequence[Path], writes: Sequence[Path]) -> tuple[int, bool, int] | None:
    """The first output that is an input, or an output before it.

    Returns:
        Its index in `writes`; whether it is an input; and the index of the other in `reads` or in
        `writes`. None where all differ.
    """
    read = {_identity(path): index for index, path in reversed(list(enumerate(reads)))}
    written: dict[tuple[int, int] | str, int] = {}
    for index, path in enumerate(writes):
        if path.is_dir():
            continue
        identity = _identity(path)
        if identity in read:
            return index, True, read[identity]
        if identity in written:
            return index, False, written[identity]
        written[identity] = index
    return None


def _identity(path: Path) -> tuple[int, int] | str:
    """What is the same of two names of one file, whether it is there or not."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
