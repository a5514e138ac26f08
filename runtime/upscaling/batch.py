"""Upscale many image files; reading ahead, inference and writing overlap."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np

from adadm.runtime.arguments import find_clash
from adadm.runtime.errors import AdadmError, ImageError, OutputError
from adadm.runtime.images.arrays import EXTENSIONS, Pixels, images_in, to_integers
from adadm.runtime.images.photo_reader import Photo, open_photo
from adadm.runtime.images.photo_writer import PhotoWriter
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.upscaling.tile_plan import Plan
from adadm.runtime.upscaling.upscaler import Upscaler

_STRIP_PX = 256
_FORMAT_LIKE = re.compile(r"\.[A-Za-z]{3,5}")  # not a folder such as results.2 or v1.4
_FAILURES = (AdadmError, OSError, MemoryError)
"""Exceptions of one image that do not stop the others."""


@dataclass(frozen=True)
class Job:
    """One file to upscale."""

    source: Path
    target: Path


@dataclass
class BatchResult:
    """Jobs by outcome; the failed ones with the reason."""

    done: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.done) + len(self.skipped) + len(self.failed)


def find_jobs(
    inputs: Sequence[Path], output: Path, suffix: str | None, reads: Sequence[Path] = ()
) -> list[Job]:
    """Pair each source file with the file of its result.

    Args:
        inputs: files and folders. Folders are searched recursively and mirrored; names that begin
            with a dot are left out.
        output: an image file if there is one input file and the name has an image's suffix; else
            a folder.
        suffix: suffix of the results; None for that of each source.
        reads: other files that are read.

    Raises:
        ImageError: a folder holds no image, or the output's suffix is not an image format.
        OutputError: a result would replace a source, or two results would have one name.
    """
    inside = output.resolve()
    jobs = []
    for source in inputs:
        if not source.is_dir():
            is_file = len(inputs) == 1 and _names_a_file(output, suffix)
            jobs.append(Job(source, output if is_file else _target(output, source.name, suffix)))
            continue
        found = [
            path
            for path in images_in(source)
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(source).parts)
            # leave out results of an earlier run inside the folder
            and (inside == source.resolve() or inside not in path.resolve().parents)
        ]
        if not found:
            raise ImageError(
                f"{source}: expected images ({', '.join(sorted(EXTENSIONS))}), got none"
            )
        jobs += [
            Job(path, _target(output, str(path.relative_to(source)), suffix)) for path in found
        ]
    sources = [*(job.source for job in jobs), *reads]
    clash = find_clash(sources, [job.target for job in jobs])
    if clash is not None:
        index, is_source, other = clash
        target = jobs[index].target
        if is_source:
            raise OutputError(f"{target} would replace a source; give another -o")
        raise OutputError(
            f"{jobs[other].source} and {jobs[index].source} would both become {target}; upscale "
            "them into different folders"
        )
    return jobs


def _names_a_file(output: Path, suffix: str | None) -> bool:
    if output.is_dir() or not _FORMAT_LIKE.fullmatch(output.suffix):
        return False
    if output.suffix.lower() not in EXTENSIONS:
        raise ImageError(
            f"{output}: expected one of {', '.join(sorted(EXTENSIONS))}, got {output.suffix}"
        )
    if suffix not in (None, output.suffix.lower()):
        raise ImageError(f"{output} contradicts --format {suffix[1:]}; leave one of them out")
    return True


def _target(folder: Path, name: str, suffix: str | None) -> Path:
    path = folder / name
    return path if suffix is None else path.with_suffix(suffix)


def upscale_files(
    upscaler: Upscaler,
    jobs: Sequence[Job],
    *,
    overwrite: bool = False,
    quality: int = 95,
    largest_megapixels: float = 500.0,
    progress: Progress = SILENT,
    windows: Progress = SILENT,
) -> BatchResult:
    """Upscale files; one that fails does not stop the others.

    While the backend runs one file, the next is decoded and the previous encoded. Each result
    appears whole or not at all. An existing result is skipped.

    Args:
        overwrite: replace existing results.
        quality: quality of JPEG and WebP, 1..100.
        largest_megapixels: larger images are refused before they are decoded.
        progress: receives the finished files, and how each is tiled.
        windows: receives the finished windows of the current file.
    """
    outcome = BatchResult()
    waiting: list[Job] = []
    for job in jobs:
        is_there = job.target.exists() and not overwrite
        (outcome.skipped if is_there else waiting).append(job)
    progress.advance(outcome.count, len(jobs))

    def end(job: Job, written: Future[None]) -> None:
        try:
            written.result()
        except _FAILURES as error:
            outcome.failed.append((job, str(error) or type(error).__name__))
            progress.message(f"{job.source} failed", warning=True)
        else:
            outcome.done.append(job)
        progress.advance(outcome.count, len(jobs))

    with ThreadPoolExecutor(1, "finish") as finishing:
        open_ends: deque[tuple[Job, Future[None]]] = deque()
        for job, photo in _read_ahead(waiting, largest_megapixels):
            try:
                written = _upscale_one(
                    upscaler,
                    job,
                    photo.result(),
                    finishing,
                    quality,
                    progress=progress,
                    windows=windows,
                )
            except _FAILURES as error:
                written = Future()
                written.set_exception(error)
            open_ends.append((job, written))
            while len(open_ends) > 1 or (open_ends and open_ends[0][1].done()):
                end(*open_ends.popleft())
        for open_end in open_ends:
            end(*open_end)
    return outcome


def _upscale_one(
    upscaler: Upscaler,
    job: Job,
    photo: Photo,
    finishing: ThreadPoolExecutor,
    quality: int,
    *,
    progress: Progress,
    windows: Progress,
) -> Future[None]:
    """Give all rows to the encoder. The future completes when the file is written."""
    plan = upscaler.plan(photo.height, photo.width, photo.dtype)
    windows.phase(job.source.name)
    if not plan.is_whole:
        progress.message(f"{job.source}: {plan}")
    if plan.warning:
        progress.message(f"{job.source}: WARNING: {plan.warning}", warning=True)
    try:
        with PhotoWriter(job.target, photo, upscaler.upscale_factor, quality=quality) as writer:
            for rows in _rows(upscaler, photo, plan, job.source, windows):
                writer.write(rows)
            return writer.close_in(finishing)
    finally:
        photo.close()


def _rows(
    upscaler: Upscaler, photo: Photo, plan: Plan, source: Path, windows: Progress
) -> Iterator[Pixels]:
    """Yield rows with the file's channels; alpha goes through the network like colour."""
    colour = upscaler.rows(photo, plan, progress=_Named(str(source), windows, windows))
    alpha = _alpha_rows(upscaler, photo, plan, _Named(f"{source}, alpha", windows))
    for rows in colour:
        channels = [_as_grey(rows) if photo.is_grey else rows]
        if alpha is not None:
            channels.append(_as_grey(next(alpha)))
        yield channels[0] if len(channels) == 1 else np.concatenate(channels, axis=2)


def _as_grey(rows: Pixels) -> Pixels:
    if rows.strides[2] == 0:
        return rows[..., :1]
    grey: Pixels = to_integers(rows.mean(axis=2, keepdims=True, dtype=np.float32), rows.dtype)
    return grey


class _Named(Progress):
    """Messages after the name of their image; steps go to another receiver."""

    def __init__(self, name: str, messages: Progress, steps: Progress = SILENT) -> None:
        self._name, self._messages, self._steps = name, messages, steps

    def advance(self, done: int, total: int, note: str = "") -> None:
        self._steps.advance(done, total, note)

    def message(self, text: str, *, warning: bool = False) -> None:
        self._messages.message(f"{self._name}: {text}", warning=warning)


class _Alpha:
    """A pixel source whose colour is the alpha of a photo."""

    def __init__(self, photo: Photo) -> None:
        self.height, self.width, self.dtype = photo.height, photo.width, photo.dtype
        self.colour = photo.alpha


def _alpha_rows(
    upscaler: Upscaler, photo: Photo, plan: Plan, progress: Progress
) -> Iterator[Pixels] | None:
    if not photo.has_alpha:
        return None
    first, factor = photo.alpha(0, 0, 1, 1)[0, 0, 0], upscaler.upscale_factor
    strips = range(0, photo.height, _STRIP_PX)
    if all(
        (photo.alpha(top, 0, min(_STRIP_PX, photo.height - top), photo.width) == first).all()
        for top in strips
    ):
        # Constant alpha, as of opaque images, is common and needs no network.
        heights = (factor * row[0][0].share for row in plan.windows)
        return (np.broadcast_to(first, (height, factor * photo.width, 3)) for height in heights)
    rows = upscaler.rows(_Alpha(photo), plan, progress=progress)
    return _bounded(rows, photo, plan, factor)


def _bounded(rows: Iterator[Pixels], photo: Photo, plan: Plan, factor: int) -> Iterator[Pixels]:
    """Clip alpha to the range of the 3x3 source pixels, so opaque and clear stay exact."""
    for windows, upscaled in zip(plan.windows, rows, strict=True):
        first, last = windows[0][0].inner_start, windows[0][0].inner_stop
        top, bottom = max(0, first - 1), min(photo.height, last + 1)
        source = photo.alpha(top, 0, bottom - top, photo.width)[..., 0]
        padded = np.pad(source, ((top - first + 1, last + 1 - bottom), (1, 1)), mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        low, high = (
            bound.repeat(factor, axis=0).repeat(factor, axis=1)[..., None]
            for bound in (around.min(axis=(2, 3)), around.max(axis=(2, 3)))
        )
        yield np.clip(upscaled, low, high)


def _read_ahead(
    jobs: Sequence[Job], largest_megapixels: float
) -> Iterator[tuple[Job, Future[Photo]]]:
    """Decode one file ahead in a thread."""
    reader = ThreadPoolExecutor(1, "read ahead")
    ahead: deque[Future[Photo]] = deque()
    try:
        for job, following in zip_longest((None, *jobs), jobs):
            if following is not None:
                ahead.append(reader.submit(open_photo, following.source, largest_megapixels))
            if job is not None:
                yield job, ahead.popleft()
    finally:
        reader.shutdown(cancel_futures=True)
