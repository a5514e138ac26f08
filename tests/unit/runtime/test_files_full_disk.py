"""Whatever is written, on a disk that fills up before its end: an error, and no file.

The kernel takes the first bytes of the write that goes over the limit, as a full disk does; a
writer that does not look at how many were taken leaves a cut file, and says that it is done.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips

from _support.file_size_limit import files_at_most
from _support.pictures import open_files
from _support.waiting import within_time
from adadm.runtime.errors import ImageError
from adadm.runtime.files import written_whole
from adadm.runtime.images.arrays import EXTENSIONS, ImageArray, write_image
from adadm.runtime.images.file_extras import Extras
from adadm.runtime.images.photo_reader import Photo
from adadm.runtime.images.photo_writer import WRITTEN_SUFFIXES, PhotoWriter

IMAGE: ImageArray = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)


def text(path: Path) -> None:
    with written_whole(path) as partial:
        partial.write_text("one line of text\n" * 4000, encoding="utf-8")


def photo(path: Path) -> None:
    like = Photo(path, pyvips.Image.new_from_array(IMAGE), Extras())
    with PhotoWriter(path, like, upscale=1) as writer:
        writer.write(IMAGE)


def image(path: Path) -> None:
    write_image(path, IMAGE)


WRITERS = [
    (text, ".txt"),
    *((image, suffix) for suffix in sorted(EXTENSIONS)),
    *((photo, suffix) for suffix in sorted(WRITTEN_SUFFIXES)),
]


@pytest.mark.parametrize(("write", "suffix"), WRITERS)
@pytest.mark.parametrize("missing", [1, 100, 4096, -1])
def test_a_cut_file_is_an_error_and_no_file(
    write: Callable[[Path], None], suffix: str, missing: int, tmp_path: Path
) -> None:
    path = tmp_path / f"result{suffix}"
    write(path)
    size = path.stat().st_size
    limit = size - missing if missing > 0 else 1
    path.unlink()
    for there in ([], [path]):
        with (
            files_at_most(limit),
            pytest.raises((OSError, ImageError), match=rf"result\{suffix}") as caught,
        ):
            within_time(lambda: write(path))
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == there
        assert open_files(tmp_path) == 0  # else a batch would find the disk still full
        path.write_bytes(b"old")  # for the second time
    assert path.read_bytes() == b"old"


def test_what_the_disk_refuses_later_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems take all, and say that the disk was full when it is synchronized."""

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match=r"No space left on device: '.*result\.txt'"):
        text(tmp_path / "result.txt")
    assert list(tmp_path.iterdir()) == []
