"""What to upscale into which files: inputs, lists and patterns, folders and what lies in them."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from adadm.runtime.arguments import find_clash
from adadm.runtime.errors import ImageError, OutputError
from adadm.runtime.files import check_readable, opened, real_path
from adadm.runtime.images.arrays import EXTENSIONS
from adadm.runtime.images.file_kinds import PHOTO_SUFFIXES, PROBED_SUFFIXES
from adadm.runtime.images.photo_reader import open_photo, read_size
from adadm.runtime.images.photo_writer import WRITTEN_SUFFIXES
from adadm.runtime.upscaling.memory import HeightWidth

_FORMAT_LIKE = re.compile(r"\.[A-Za-z]{3,5}")  # not a folder such as results.2 or v1.4
_WRITTEN_AS = {".mpo": ".jpg"}  # the others that are not written: PNG
_LEAST_FACTOR = 1.05


@dataclass(frozen=True)
class Job:
    """One file to upscale.

    Attributes:
        preview: file of the comparison with the source; None for none.
    """

    source: Path
    target: Path
    preview: Path | None = None


@dataclass
class Jobs:
    """What was found.

    Attributes:
        passed_over: files in the folders that are no readable images, by their suffix.
        left_out: images in the output folder inside of an input folder: earlier results.
    """

    jobs: list[Job] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    left_out: int = 0

    @property
    def passed_over_kinds(self) -> str:
        """Numbers by suffix, the most frequent first; `none` if nothing was passed over."""
        counts = sorted(self.passed_over.items(), key=lambda kind: (-kind[1], kind[0]))
        return ", ".join(f"{count} {kind}" for kind, count in counts) or "none"


def expand_inputs(texts: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Files and folders that inputs name, and the lists that were read.

    An input that exists is taken as it is. Else `@NAME` is a list of inputs, one a line, and a name
    with `*`, `?` or `[` is a pattern, in which `**` stands for any folders.

    Raises:
        ImageError: a list cannot be read or is empty, or a pattern matches nothing.
        OSError: as for `check_readable`.
    """
    paths: list[Path] = []
    lists: list[Path] = []
    for text in texts:
        if text.startswith("@") and not os.path.lexists(text):
            lists.append(Path(text[1:]))
            paths += (path for line in _lines(lists[-1]) for path in _matches(line))
        else:
            paths += _matches(text)
    return paths, lists


def _lines(path: Path) -> list[str]:
    try:
        with opened(path) as file:
            content = file.read().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ImageError(f"{path}: the list of inputs cannot be read ({error.strerror})") from error
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise ImageError(f"{path}: expected a list of inputs, one a line, got an empty file")
    return lines


def _matches(text: str) -> list[Path]:
    if os.path.lexists(text) or not glob.has_magic(text):
        check_readable(Path(text))
        return [Path(text)]
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        raise ImageError(f"{text}: expected a pattern of existing files, got one without a match")
    return [Path(match) for match in matches]


def find_jobs(
    inputs: Sequence[Path],
    output: Path,
    suffix: str | None,
    reads: Sequence[Path] = (),
    *,
    suffixes: frozenset[str] = EXTENSIONS,
    recursive: bool = True,
    previews: Path | None = None,
) -> Jobs:
    """Pair each source file with the file of its result.

    Args:
        inputs: files and folders. Folders are searched and mirrored; names that begin with a dot
            are left out.
        output: an image file if there is one input file and the name has an image's suffix; else
            a folder.
        suffix: suffix of the results; None for that of each source, or PNG if it is not written.
        reads: other files that are read.
        suffixes: suffixes of images in folders.
        recursive: search folders in folders too.
        previews: folder for comparisons, which mirrors the output; None for none.

    Raises:
        ImageError: a folder holds no image, or the output's suffix is not an image format.
        OutputError: a result would replace a source, or two results would have one name.
    """
    found, search = Jobs(), _Search(real_path(output), suffixes, recursive=recursive)
    for source in dict.fromkeys(inputs):
        if not source.is_dir():
            is_file = len(inputs) == 1 and _names_a_file(output, suffix)
            target = output if is_file else _target(output, source.name, suffix)
            found.jobs.append(_job(source, target, target.name, previews))
            continue
        images = search.images(source, found)
        if not images:
            expected = ", ".join(sorted(suffixes))
            raise ImageError(
                f"{source}: expected images ({expected}), got {found.passed_over_kinds}"
            )
        for path in images:
            name = str(path.relative_to(source))
            target = _target(output, name, suffix)
            found.jobs.append(_job(path, target, str(target.relative_to(output)), previews))
    jobs = found.jobs
    sources = [*(job.source for job in jobs), *reads]
    writes = [job.target for job in jobs]
    clash = find_clash(sources, [*writes, *(job.preview for job in jobs if job.preview)])
    if clash is None:
        return found
    index, is_source, other = clash
    if index >= len(jobs):
        raise OutputError(
            f"{jobs[index - len(jobs)].preview} would be read, or written twice; give another "
            "--compare"
        )
    target = jobs[index].target
    if is_source:
        raise OutputError(f"{target} would replace a source; give another -o")
    raise OutputError(
        f"{jobs[other].source} and {jobs[index].source} would both become {target}; upscale "
        "them into different folders"
    )


def _job(source: Path, target: Path, name: str, previews: Path | None) -> Job:
    return Job(source, target, previews and previews / f"{name}.png")


class _Search:
    """Finds images in folders."""

    def __init__(self, inside: Path, suffixes: frozenset[str], *, recursive: bool) -> None:
        self._inside, self._suffixes, self._recursive = inside, suffixes, recursive
        self._is_read: dict[str, bool] = {}

    def images(self, folder: Path, found: Jobs) -> list[Path]:
        """Images in a folder, sorted; what else is in it is counted."""
        images = []
        mirrors_itself = self._inside == real_path(folder)
        for path in sorted(folder.rglob("*") if self._recursive else folder.iterdir()):
            if path.is_dir() or any(part[0] == "." for part in path.relative_to(folder).parts):
                continue
            suffix = path.suffix.lower()
            if not mirrors_itself and self._inside in real_path(path).parents:
                found.left_out += suffix in self._suffixes
            elif path.is_file() and (suffix in self._suffixes or self._probe(path, suffix)):
                images.append(path)
            else:
                found.passed_over[suffix or "without suffix"] += 1
        return images

    def _probe(self, path: Path, suffix: str) -> bool:
        """True if libvips, which may lack the decoder, decodes this file or one like it."""
        if suffix not in PROBED_SUFFIXES or not self._suffixes >= PHOTO_SUFFIXES:
            return False
        if suffix not in self._is_read:
            try:
                open_photo(path).close()
            except ImageError:
                return False
            self._is_read[suffix] = True
        return True


def _names_a_file(output: Path, suffix: str | None) -> bool:
    if output.is_dir() or not _FORMAT_LIKE.fullmatch(output.suffix):
        return False
    if output.suffix.lower() not in WRITTEN_SUFFIXES:
        raise ImageError(
            f"{output}: expected one of {', '.join(sorted(WRITTEN_SUFFIXES))}, got {output.suffix}"
        )
    if suffix not in (None, output.suffix.lower()):
        raise ImageError(f"{output} contradicts --format {suffix[1:]}; leave one of them out")
    return True


def _target(folder: Path, name: str, suffix: str | None) -> Path:
    path = folder / name
    known = path.suffix.lower()
    if suffix is None and known in WRITTEN_SUFFIXES:
        return path
    if suffix is not None and known in WRITTEN_SUFFIXES | PHOTO_SUFFIXES | PROBED_SUFFIXES:
        return path.with_suffix(suffix)
    # a.gif.png, since a.png may be there too; or no suffix, or a part of the name
    return path.with_name(path.name + (suffix or _WRITTEN_AS.get(known, ".png")))


def earlier_results(sources: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield the sources that look like results of others, each with the other.

    They have the name of the other, or one that begins so, and its aspect ratio, and are larger.
    """
    by_stem: dict[str, list[Path]] = {}
    for path in sources:
        by_stem.setdefault(path.stem, []).append(path)

    @cache
    def size_of(path: Path) -> HeightWidth | None:
        try:
            return read_size(path)
        except ImageError:
            return None

    @cache
    def by_size(stem: str) -> dict[HeightWidth, Path]:
        sizes = ((size_of(path), path) for path in reversed(by_stem[stem]))
        return {size: path for size, path in sizes if size}

    for path in sources:
        # at the end, or before what is no letter and no digit: IMG_1, but not IMG_10
        ends = [*(m.start() for m in re.finditer(r"[^0-9A-Za-z]", path.stem)), len(path.stem)]
        stems = {path.stem[:end] for end in ends} & by_stem.keys()
        shared = [stem for stem in sorted(stems) if by_stem[stem] != [path]]
        size = size_of(path) if shared else None
        if size is None:
            continue
        others = (item for stem in shared for item in by_size(stem).items())
        original = next((other for least, other in others if _is_enlarged(size, least)), None)
        if original is not None:
            yield path, original


def _is_enlarged(size: HeightWidth, least: HeightWidth) -> bool:
    tall, wide = size[0] / least[0], size[1] / least[1]
    return abs(tall - wide) * min(least) <= 1 and min(tall, wide) > _LEAST_FACTOR
