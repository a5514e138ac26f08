"""Arguments that verbs share: targets, and paths, none of them both read and written."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from adadm.runtime.errors import OutputError
from adadm.runtime.files import (
    cache_folder,
    check_no_folder,
    check_readable,
    check_writable,
    is_special,
)
from adadm.runtime.images.arrays import images_in
from adadm.runtime.models.bundled import companion_files
from adadm.runtime.targets import TARGETS, Target
from adadm.runtime.terminal import shown

_LONGEST = 500


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        said = shown(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}...")
        self.exit(2, f"{self.prog}: error: {said} (see {self.prog} --help)\n")


def add_target(
    parser: argparse.ArgumentParser, targets: Mapping[str, Target] = TARGETS, **options: Any
) -> None:
    """Add `--target`, required unless `options` has a default."""
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


def add_accept(parser: argparse.ArgumentParser) -> None:
    """Add `--accept`: names of failures that are no reason to fail."""
    parser.add_argument(
        "--accept",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="accept the failure of these checks, drawn inputs and photographs, named as printed; "
        "the report names them",
    )


def add_cache(parser: argparse.ArgumentParser, paths: Paths) -> None:
    """Add `--cache`, by default the user's folder."""
    parser.add_argument(
        "--cache",
        type=paths.cache,
        default=cache_folder(),
        metavar="DIR",
        help="folder for measured ranges and losses, named by the digest of their inputs; "
        "default: %(default)s",
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
        """Parse the path of a file, or of a folder of images, that is read."""
        self._reads.append(readable_path(text))
        return Path(text)

    def read_file(self, text: str) -> Path:
        """Parse the path of a file that is read."""
        path = self.read(text)
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"expected a file, got the folder {text!r}")
        return path

    def model(self, text: str) -> str:
        """Parse the name of a model that is read, with the files beside it that belong to it."""
        if not Path(text).name:
            raise argparse.ArgumentTypeError(f"expected a model, got the folder {text!r}")
        files = companion_files(text)
        for file in files:
            check_readable(file)
        self._reads += files
        return text

    def written(self, text: str | Path) -> Path:
        """Parse the path of a file or folder that is written."""
        self._writes.append(writable_path(text))
        return Path(text)

    def written_file(self, text: str | Path) -> Path:
        """Parse the path of a file that is written."""
        path = self.written(text)
        check_no_folder(path)
        return path

    def cache(self, text: str) -> Path:
        """Parse the path of a folder of results; a run goes on if it cannot be written."""
        self._writes.append(named_path(text))
        return Path(text)

    def written_as(self, *suffixes: str) -> Callable[[str], Path]:
        """Make a parser of the path of a written file whose suffix is one of these."""
        return partial(self._written_as, suffixes)

    def _written_as(self, suffixes: Sequence[str], text: str) -> Path:
        if Path(text).suffix not in suffixes:
            expected = " or ".join(suffixes)
            raise argparse.ArgumentTypeError(
                f"expected a name that ends in {expected}, got {text!r}"
            )
        return self.written_file(text)

    def check(
        self, reads: Iterable[Path] = (), writes: Iterable[Path] = (), rewrites: Iterable[Path] = ()
    ) -> None:
        """Refuse to write a file that is read, or to write a file twice.

        Args:
            reads, writes: further files that the arguments imply, such as one beside the output.
            rewrites: files of an earlier run, which may be written again and may be links to each
                other.

        Raises:
            OutputError: as for `check_outputs`.
            OSError: one of `writes` cannot be written, as for `check_writable`.
        """
        writes = list(writes)
        for path in writes:
            check_writable(path)
            check_no_folder(path)
        once = {_identity(path): path for path in rewrites}
        for written in ([*self._writes, *writes], list(once.values())):
            check_outputs([*self._reads, *reads], written)


def named_path(text: str | Path) -> Path:
    """Parse a path, which an empty text is not."""
    if not str(text):
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return Path(text)


def readable_path(text: str) -> Path:
    """Parse the path of a file or a folder that is read.

    Raises:
        OSError: as for `check_readable`.
    """
    path = named_path(text)
    check_readable(path)
    return path


def writable_path(text: str | Path) -> Path:
    """Parse the path of a file or a folder that is written.

    Raises:
        OSError: as for `check_writable`.
    """
    path = named_path(text)
    check_writable(path)
    return path


def check_outputs(reads: Sequence[Path], writes: Sequence[Path]) -> None:
    """Refuse outputs that are an input, another output, or not a regular file.

    Links to one file count as that file. A folder that is read stands for the images in it. A
    folder that is written is ignored: the files written into it are listed themselves.

    Raises:
        OutputError: an output is one of these.
    """
    for path in writes:
        if is_special(path):
            raise OutputError(f"{path} is not a regular file: give the name of a file to write")
    files = list(reads)
    if any(path.exists() for path in writes):  # otherwise no output can be an image in a folder
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
    """The first output that is also an input or an earlier output.

    Returns:
        Its index in `writes`; True if it is an input; and the index of the other in `reads` or
        `writes`. None if all differ.
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
    """A key that is equal for all names of one file, existing or not."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
