"""Decoding in a process of its own: it equals decoding here, and ends with its time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import pyvips
from PIL import Image

from _support.pictures import noise, open_files
from adadm.runtime.errors import ImageError
from adadm.runtime.images.decoding import apart
from adadm.runtime.images.decoding.apart import decode_apart, load_lazily
from adadm.runtime.images.photo_reader import open_photo

LOADER = "heifload_source"


@pytest.fixture
def avif(tmp_path: Path) -> Path:
    path = tmp_path / "a é.avif"
    exif = Image.Exif()
    exif[0x10E] = "words"
    Image.fromarray(noise(0, 50, 61, 4)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("bits", [8, 10])
def test_pixels_and_fields_are_those_of_vips(avif: Path, bits: int) -> None:
    if bits > 8:
        deep = pyvips.Image.new_from_array(noise(0, 50, 61, 3).astype(np.uint16) * 257)
        deep.heifsave(str(avif), compression="av1", bitdepth=bits)
    expected = load_lazily(avif, LOADER)
    found = decode_apart(avif, LOADER, load_lazily(avif, LOADER))
    for name in set(expected.get_fields()) - {"filename"}:
        assert found.get(name) == expected.get(name), name
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_what_takes_too_long_is_ended(
    avif: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(apart, "_LEAST_S", 0)
    monkeypatch.setattr(apart, "_S_PER_MEGAPIXEL", 0.001)
    with pytest.raises(ImageError, match=r"é\.avif: not decoded within 0 s, the limit for 61x50"):
        open_photo(avif)
    assert psutil.Process().children() == []
    assert (os.listdir(tmp_path), open_files(tmp_path)) == ([avif.name], 0)


def test_what_the_decoder_says_is_said(avif: Path) -> None:
    whole = avif.read_bytes()
    avif.write_bytes(whole[:-500])
    with pytest.raises(ImageError, match=r"é\.avif: not a readable image \(heif: "):
        open_photo(avif)


def test_a_crash_is_that_of_one_image(avif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    monkeypatch.setattr(apart, "python_command", lambda *_: [sys.executable, *crash])
    with pytest.raises(ImageError, match=r"é\.avif: .*its decoder exited with -11"):
        open_photo(avif)
