"""Files that ask for more than they hold: refused before memory or time is spent on them."""

from __future__ import annotations

import io
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from _support.bad_pictures import BAD, EPS, jpeg_of_scans
from _support.pictures import noise
from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import read_image
from adadm.runtime.images.decoding.limits import reading
from adadm.runtime.images.photo_reader import open_photo

READERS = [open_photo, read_image]


@contextmanager
def memory_of(more: int) -> Iterator[None]:
    """Let this process map this many bytes more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_decoded_is_named_at_little_cost(
    read: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name])
    with memory_of(1 << 30), pytest.raises(ImageError, match=rf"{name}[: ]") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_scans_of_a_jpeg_are_counted(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_of_scans(100))
    read(path)
    path.write_bytes(jpeg_of_scans(101))
    with pytest.raises(ImageError, match="at most 100 scans, got 101"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_scans_are_those_of_the_picture(read: Callable[[Path], object], tmp_path: Path) -> None:
    """Not what stands in other segments, nor a second picture's, as in an MPO."""
    content = io.BytesIO()
    Image.fromarray(noise(0, 64, 64, 3)).save(content, "JPEG", progressive=True)
    comment = b"\xff\xda" * 1000
    segment = b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment
    path = tmp_path / "a.jpg"
    path.write_bytes(
        content.getvalue()[:2] + segment + content.getvalue()[2:] + jpeg_of_scans(1000)
    )
    read(path)


def test_no_program_is_an_image(tmp_path: Path) -> None:
    """Pillow knows EPS, by its content, whatever the name says."""
    (tmp_path / "a.png").write_bytes(EPS)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS"
    with pytest.raises(ImageError, match=r"a\.png: not a readable image \(cannot identify"):
        read_image(tmp_path / "a.png")


def test_a_lack_of_memory_is_that_of_one_image() -> None:
    with (
        pytest.raises(ImageError, match=r"a\.png: not enough memory"),
        reading(Path("a.png"), ValueError),
    ):
        bytearray(1 << 62)
