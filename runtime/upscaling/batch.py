"""Upscale many image files; reading ahead, inference and writing overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np

from adadm.runtime.errors import AdadmError
from adadm.runtime.images.arrays import Pixels
from adadm.runtime.images.photo_reader import Photo, open_photo
from adadm.runtime.images.photo_writer import PhotoWriter
from adadm.runtime.images.preview import write_preview
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.upscaling.jobs import Job
from adadm.runtime.upscaling.reduced_size import ResultSize, reduced_rows
from adadm.runtime.upscaling.tile_plan import Plan
from adadm.runtime.upscaling.upscaler import Upscaler

_STRIP_PX = 256
_FAILURES = (AdadmError, OSError, MemoryError)
"""Exceptions of one image that do not stop the others."""


@dataclass
class BatchResult:
    """Jobs by outcome; the failed ones with the reason."""

    done: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.done) + len(self.skipped) + len(self.failed)


def upscale_files(
    upscaler: Upscaler,
    jobs: Sequence[Job],
    *,
    overwrite: bool = False,
    quality: int = 95,
    largest_megapixels: float = 500.0,
    size: ResultSize = ResultSize(),  # noqa: B008 - it is frozen
    progress: Progress = SILENT,
    windows: Progress = SILENT,
) -> BatchResult:
    """Upscale files; one that fails does not stop the others.

    While the backend runs one file, the next is decoded and the previous encoded. Each result
    appears whole or not at all. An existing result is skipped.

    Args:
        overwrite: replace existing results.
        quality: quality of JPEG, AVIF and WebP, 1..100.
        largest_megapixels: larger images are refused before they are decoded.
        size: size of the results.
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
                    overwrite=overwrite,
                    quality=quality,
                    size=size,
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
    *,
    overwrite: bool,
    quality: int,
    size: ResultSize,
    progress: Progress,
    windows: Progress,
) -> Future[None]:
    """Give all rows to the encoder. The future completes when the file is written."""
    factor = upscaler.upscale_factor
    wanted = size.of(photo.height, photo.width, factor)
    plan = upscaler.plan(photo.height, photo.width, photo.dtype)
    windows.phase(job.source.name)
    if not plan.is_whole:
        progress.message(f"{job.source}: {plan}")
    try:
        writer = PhotoWriter(job.target, photo, factor, size=wanted, quality=quality)
        for note in (plan.warning, *photo.extras.notes, *writer.notes):
            if note:
                progress.message(f"{job.source}: WARNING: {note}", warning=True)
        with writer:
            rows = _rows(upscaler, photo, plan, job.source, windows)
            made = factor * photo.height, factor * photo.width
            for part in reduced_rows(rows, made, wanted, has_alpha=photo.has_alpha):
                writer.write(part)
            written = writer.close_in(finishing)
    finally:
        photo.close()
    if job.preview is None or (job.preview.exists() and not overwrite):
        return written
    return finishing.submit(_write_preview, job, job.preview, written)


def _write_preview(job: Job, preview: Path, written: Future[None]) -> None:
    written.result()
    write_preview(preview, job.source, job.target)


def _rows(
    upscaler: Upscaler, photo: Photo, plan: Plan, source: Path, windows: Progress
) -> Iterator[Pixels]:
    """Yield rows with the file's channels; alpha goes through the network like colour."""
    colour = upscaler.rows(photo, plan, progress=_Named(str(source), windows, windows))
    alpha = _alpha_rows(upscaler, photo, plan, _Named(f"{source}, alpha", windows))
    for rows in colour:
        channels = [rows[..., :1] if photo.is_grey else rows]
        if alpha is not None:
            channels.append(next(alpha)[..., :1])
        yield channels[0] if len(channels) == 1 else np.concatenate(channels, axis=2)


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
