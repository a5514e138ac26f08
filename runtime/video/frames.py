"""Sources and sinks of frames: folders of images, or what OpenCV opens."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

from adadm.runtime.arguments import check_outputs
from adadm.runtime.errors import ImageError, require
from adadm.runtime.files import written_whole
from adadm.runtime.images.arrays import EXTENSIONS, ImageArray, find_images, read_image, write_image
from adadm.runtime.upscaling.jobs import find_jobs
from adadm.runtime.video.film_header import FilmHeader, read_film_header
from adadm.runtime.video.film_timing import FilmTiming

_CODECS = {".avi": "MJPG", ".mkv": "mp4v", ".mp4": "mp4v"}
_OTHER_FILE = re.compile(
    r"\.(264|265|3g[2p]|asf|av1|avif|bmp|divx|dv|f4v|flv|gif|h26[45]|hevc|ivf|jfif|jpe|jpe?g|m1v|m2ts?"
    r"|m2v|m4v|mjpe?g|mov|mpe|mpe?g|mpv|mts|mxf|nut|obu|og[gmv]|png|qt|rm|rmvb|tiff?|ts|vob|web[mp]"
    r"|wmv|y4m)"
)
"""Suffix that no folder for images has."""


@dataclass(frozen=True)
class Frame:
    """An RGB image (H, W, 3), source or result, and the `time.perf_counter()` of its capture."""

    name: str
    image: ImageArray
    captured: float


Frames = Generator[Frame, None, None]
Write = Callable[[Frame], object]


@dataclass(frozen=True)
class FrameSource:
    """A source of frames; closing the frames closes it.

    Attributes:
        is_live: True if frames come at their own pace.
        rate: frames per second; 0 if unknown.
        warnings: what of a film the results lack, or show otherwise.
        timing: times of the frames of a film.
    """

    frames: Frames
    is_live: bool
    rate: float
    warnings: Sequence[str] = ()
    timing: FilmTiming | None = None


def check_frames(source: str, output: str | None, suffix: str, reads: Sequence[Path] = ()) -> None:
    """Refuse an output that is the source or one of its frames, or a file of an unknown kind.

    Args:
        output, suffix: as for `open_sink`.
        reads: other files that are read.

    Raises:
        OutputError: the output is one of these, or a result would replace an image of the folder
            or another result.
        ImageError: the folder has no images, or the output has the suffix of a file that is not
            written here.
    """
    if output is None:
        return
    ending = Path(output).suffix
    if _OTHER_FILE.fullmatch(ending.lower()) and not os.path.isdir(output) and " ! " not in output:
        raise ImageError(
            f"{output}: expected {', '.join(_CODECS)} for a video, or a folder for images, got "
            f"{ending}"
        )
    writes = _files_in(output)
    if os.path.isdir(source) and not _is_video(output):
        find_jobs([Path(source)], Path(output), suffix, reads)
    elif not _is_video(output):  # frames are named by their number
        existing = Path(output).glob(f"*{suffix}")
        writes += [path for path in existing if re.fullmatch(r"\d{6,}", path.stem)]
    # `_files_in` has expanded the names that a pipeline may write, such as frame%03d.png.
    check_outputs([*_files_in(source), *reads], list(dict.fromkeys(writes)))


def _files_in(source: str) -> list[Path]:
    """Files that OpenCV may read, or a pipeline may write: a name, or names within an address.

    Such as `file:film.mkv`, `concat:a.ts|b.ts`, `filesrc location=film.mkv ! ...`, `frame%03d.png`.
    One numbered image stands for all, as OpenCV goes on with the next. Files that a playlist
    (.m3u8) names are not looked up.
    """
    if source.isdecimal():
        return []
    names = [source]
    if " ! " in source:
        places = re.findall(r"""\b(?:location|uri)\s*=\s*("[^"]*"|'[^']*'|\S+)""", source)
        names = [
            unquote(name.split(":", 1)[1]) if name.startswith("file:") else name
            for name in (name.strip("\"'") for name in places)
        ]
    elif not os.path.exists(source):
        names += [name for name in re.split(r"[:|]", source) if name]
    paths = [Path(name) for name in names]
    for path in tuple(paths):
        numbered = re.sub(r"%0?\d*d", "*", path.name)
        if path.suffix.lower() in EXTENSIONS:
            numbered = re.sub(r"\d+", "*", numbered)
        if numbered != path.name:
            paths += path.parent.glob(numbered)
    return paths


def open_source(source: str, output: str | None, suffix: str) -> FrameSource:
    """Open a folder of images, or with OpenCV a camera, file, address or GStreamer pipeline.

    Args:
        output, suffix: as for `open_sink`.

    Raises:
        MissingDependencyError: OpenCV is not installed, and it is no folder.
        ImageError: the source cannot be opened.
    """
    if os.path.isdir(source):
        folder = Path(source)
        if output is None or _is_video(output):
            paths = find_images([folder])
        else:
            paths = [job.source for job in find_jobs([folder], Path(output), suffix).jobs]
        return FrameSource(_read(folder, paths), is_live=False, rate=0.0)
    cv2 = require("cv2", "camera")
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source, _api(cv2, source))
    if not capture.isOpened():
        raise ImageError(
            f"{source}: expected a folder, or a camera, video, address or pipeline for OpenCV"
        )
    expected, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    if not (os.path.isfile(source) or expected > 0):
        return FrameSource(_captured(cv2, capture), is_live=True, rate=rate)
    header = read_film_header(source) if os.path.isfile(source) else FilmHeader()
    pixel_format = int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)).to_bytes(
        4, "little", signed=True
    )
    warnings = header.warnings(
        int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        pixel_format.decode("latin-1"),
        is_video=output is not None and _is_video(output),
    )
    timing = FilmTiming(expected, rate, is_exact=header.counts_frames)
    frames = _captured(cv2, capture, timing)
    return FrameSource(frames, is_live=False, rate=rate, warnings=warnings, timing=timing)


def _read(folder: Path, paths: list[Path]) -> Frames:
    for path in paths:
        image = read_image(path)
        yield Frame(str(path.relative_to(folder)), image, time.perf_counter())


def _captured(cv2: ModuleType, capture: Any, timing: FilmTiming | None = None) -> Frames:
    """Yield frames to the end. OpenCV reports an unplugged camera as an end too."""
    try:
        for number in count():
            is_there, bgr = capture.read()
            captured = time.perf_counter()
            if timing and is_there:
                timing.see(capture.get(cv2.CAP_PROP_POS_MSEC))
            if not is_there:
                if timing:
                    timing.end()
                return
            yield Frame(f"{number:06}", cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), captured)
    finally:
        capture.release()


@contextmanager
def open_sink(
    output: str | None, suffix: str, rate: float, size: tuple[int, int]
) -> Iterator[Write]:
    """Yield a function that writes a frame, for one thread at a time.

    Args:
        output: a folder for images named after the frames; a video file, which appears when it is
            complete; a GStreamer pipeline; or None to write nothing.
        suffix: suffix of images.
        rate: frames per second of a video.
        size: H and W of the frames, px.

    Raises:
        MissingDependencyError: the output is a video, and OpenCV is not installed.
        ImageError: a video has no rate, cannot be opened, or is incomplete at the end.
    """
    if output is None:
        yield lambda _: None
    elif _is_video(output):
        with _video(output, rate, size) as write:
            yield write
    else:
        folder = Path(output)
        yield lambda frame: write_image((folder / frame.name).with_suffix(suffix), frame.image)


@contextmanager
def _video(output: str, rate: float, size: tuple[int, int]) -> Iterator[Write]:
    if not rate > 0:
        raise ImageError(f"the source of {output} has no frame rate; give --rate")
    cv2 = require("cv2", "camera")
    height, width = size
    is_stream = " ! " in output
    with nullcontext(output) if is_stream else written_whole(output) as target:
        codec = 0 if is_stream else cv2.VideoWriter_fourcc(*_CODECS[Path(output).suffix.lower()])
        writer = cv2.VideoWriter(str(target), _api(cv2, output), codec, rate, (width, height))
        if not writer.isOpened():
            raise ImageError(
                f"{output}: OpenCV cannot write a video of {width}x{height} px at {rate} frames "
                "per second there; give another format, or a folder for images"
            )
        try:
            yield lambda frame: writer.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
        finally:
            writer.release()
        if not is_stream and not _is_complete(cv2, target):
            raise ImageError(f"{output} is incomplete; check the free space of the disk")


def _is_complete(cv2: ModuleType, path: str | Path) -> bool:
    """True if the last frame can be read; VideoWriter does not report failed writes."""
    video = cv2.VideoCapture(str(path))
    last = video.get(cv2.CAP_PROP_FRAME_COUNT) - 1
    return bool(last >= 0 and video.set(cv2.CAP_PROP_POS_FRAMES, last) and video.read()[0])


def _is_video(output: str) -> bool:
    return " ! " in output or Path(output).suffix.lower() in _CODECS


def _api(cv2: ModuleType, name: str) -> int:
    if " ! " not in name:
        return int(cv2.CAP_ANY)
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise ImageError(
            f"{name}: a GStreamer pipeline needs an OpenCV built with GStreamer; JetPack's is, "
            "PyPI's is not"
        )
    return int(cv2.CAP_GSTREAMER)
