"""The library pyvips: its set-up and its error texts."""

from __future__ import annotations

import itertools
import logging
from contextlib import suppress
from functools import cache
from typing import Any

from adadm.runtime.errors import MissingDependencyError, require

MM_PER_INCH = 25.4


def codec_reason(error: Exception) -> str:
    """Error text of vips or Pillow in one line."""
    said = getattr(error, "detail", "") or getattr(error, "strerror", "") or str(error)
    lines = dict.fromkeys(line.strip() for line in said.splitlines() if line.strip())
    for line in lines:  # the other lines only tell where it happened, with temporary names
        if line.startswith("system error: "):
            return line.removeprefix("system error: ")
    # libheif looks beyond the end of whole files too
    told = [line for line in lines if ": bad seek to " not in line] or lines
    return "; ".join(told)[:200] or type(error).__name__


def field_names(image: Any) -> list[str]:
    """Names of the metadata of an image of vips, without those that are not UTF-8.

    pyvips fails at all where there is one of these: keywords of PNG, which are Latin-1, become
    parts of names, as do damaged boxes of AVIF.
    """
    vips = load_vips()
    array = vips.vips_lib.vips_image_get_fields(image.pointer)
    names: list[str] = []
    for place in itertools.count():
        if array[place] == vips.ffi.NULL:
            break
        with suppress(UnicodeDecodeError):
            names.append(vips.ffi.string(array[place]).decode())
        vips.glib_lib.g_free(array[place])
    vips.glib_lib.g_free(array)
    return names


@cache
def load_vips() -> Any:
    """Import and set up pyvips.

    Raises:
        MissingDependencyError: pyvips, or the library that it wraps, is not installed.
    """
    try:
        vips = require("pyvips", "photos")
    except OSError as error:  # pyvips without libvips
        raise MissingDependencyError("pyvips_binary", "photos") from error
    vips.cache_set_max(0)  # else it keeps operations with their pixels
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    return vips
