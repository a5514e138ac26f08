"""Decode an image file in a process of its own, which ends with its time.

A decoder in C cannot be interrupted, only ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from adadm.runtime.errors import ImageError
from adadm.runtime.images.vips import codec_reason, field_names, load_vips
from adadm.runtime.python_process import python_command, run_child

_LEAST_S, _S_PER_MEGAPIXEL = 60, 2.0
"""Limit of time. AVIF takes 0.05 s per megapixel on a core of a desktop."""


def load_lazily(path: Path, loader: str) -> Any:
    """An image of vips, whose pixels are decoded from top to bottom as they are read."""
    options: dict[str, object] = {"access": "sequential", "fail_on": "error"}
    if loader == "tiffload_source":
        options["unlimited"] = True  # libtiff takes at most 50 MB for a strip, which may be all
    vips = load_vips()
    return getattr(vips.Image, loader)(vips.Source.new_from_file(os.fsencode(path)), **options)


def decode_apart(path: Path, loader: str, image: Any) -> Any:
    """An image with its pixels in a temporary file, which nothing needs to remove.

    Args:
        image: what `load_lazily` returns.

    Raises:
        ImageError: the decoder fails, crashes, or is not done in time.
        OSError: there is no folder for temporary files.
    """
    seconds = _LEAST_S + _S_PER_MEGAPIXEL * image.width * image.height / 1e6
    with TemporaryFile() as file:
        place = file.fileno()
        command = python_command(__name__, os.fspath(path), loader, str(place))
        try:
            done = run_child(command, seconds=seconds, pass_fds=[place])
        except subprocess.TimeoutExpired as error:
            raise ImageError(
                f"{path}: not decoded within {seconds:.0f} s, the limit for {image.width}x"
                f"{image.height} px; if you trust the file, convert it to PNG first"
            ) from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"its decoder exited with {done.returncode}"
            raise ImageError(f"{path}: not a readable image ({reason})")
        size = image.width, image.height, image.bands
        like = {"format": image.format, "interpretation": image.interpretation}
        decoded = load_vips().Image.rawload(_name(place), *size, **like)
    decoded = decoded.copy(xres=image.xres, yres=image.yres)
    for name in set(field_names(image)) - set(field_names(decoded)):
        decoded.set_type(image.get_typeof(name), name, image.get(name))
    return decoded


def _name(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def main(arguments: list[str]) -> None:
    """Decode a file into a descriptor; exit with the decoder's reason where that fails."""
    path, loader, descriptor = arguments
    try:
        load_lazily(Path(path), loader).rawsave(_name(int(descriptor)))
    except load_vips().Error as error:
        sys.exit(codec_reason(error))


if __name__ == "__main__":
    main(sys.argv[1:])
