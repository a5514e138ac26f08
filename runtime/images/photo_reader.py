"""Read photographs of any size by regions, with their metadata.

PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF with 8 or 16 bits a channel, grey or colour, with or
without alpha; HEIC, JPEG XL and JPEG 2000 where the installed libvips decodes them. Palettes and
single bits become RGB or grey, CMYK becomes sRGB, alpha straight alpha, EXIF's orientation is
applied, and values that are linear in light become values of sRGB's curve with 16 bits.

Memory: more than 100 MB of decoded pixels lie in a temporary file in $TMPDIR. Formats that cannot
be decoded by rows are held whole: WebP, BMP, GIF, AVIF, progressive JPEG and interlaced PNG.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image

from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import Pixels
from adadm.runtime.images.decoding.apart import decode_apart, load_lazily
from adadm.runtime.images.decoding.limits import check_not_cut, check_scans, check_size, reading
from adadm.runtime.images.file_extras import Extras, read_extras
from adadm.runtime.images.file_kinds import AVIF, BMP, JPEG, kind_of, undecodable
from adadm.runtime.images.tone_curves import find_tone_curves
from adadm.runtime.images.vips import MM_PER_INCH, field_names, load_vips

_MOST_IN_MEMORY_BYTES = 100 << 20  # of decoded pixels; vips itself draws this line


class Photo:
    """A decoded image file, read by regions; threads may share it.

    Attributes:
        width, height: size after EXIF's orientation, px.
        dtype: uint8 or uint16, of the pixels as they are read here.
        depth: bits of a channel in the file, 8 to 16.
        is_grey: True if the file has one colour channel instead of three.
        has_alpha: True if the file has alpha.
        metadata: vips' fields for a file to be written: EXIF, ICC profile, XMP, IPTC.
        resolution: pixels per millimetre, horizontal and vertical; None if the file has none.
        extras: what else the file holds.
        curves: tables between the values that are read here and the file's; None if they are equal.
    """

    def __init__(self, path: Path, image: Any, extras: Extras, depth: int = 8) -> None:
        self.path = path
        self.width: int = image.width
        self.height: int = image.height
        self.is_grey: bool = image.bands <= 2
        self.has_alpha: bool = image.bands in (2, 4)
        self.metadata = _metadata_of(image, extras)
        self.resolution = _resolution_of(image) if extras.has_resolution else None
        self.extras = extras
        self.depth = depth
        self._stored = np.dtype(np.uint16 if image.format == "ushort" else np.uint8)
        self.curves = find_tone_curves(
            self.metadata.get("icc-profile-data"),  # type: ignore[arg-type]
            extras.chunks,
            extras.cicp,
            dtype=self._stored,
            channels=self._channels,
        )
        self.dtype: np.dtype[Any] = np.dtype(np.uint16) if self.curves else self._stored
        self._image = image

    def colour(self, top: int, left: int, height: int, width: int) -> Pixels:
        """A region as RGB (height, width, 3); grey is repeated.

        Raises:
            IndexError: the region is empty or not inside the photo.
        """
        colour = self._region(top, left, height, width)[..., : self._channels]
        return _three(self.curves.encode(colour) if self.curves else colour)

    def alpha(self, top: int, left: int, height: int, width: int) -> Pixels:
        """Alpha of a region, repeated to (height, width, 3) like colour.

        Raises:
            IndexError: the region is empty or not inside the photo.
            ValueError: the photo has no alpha.
        """
        if not self.has_alpha:
            raise ValueError(f"{self.path} has no alpha")
        alpha = self._region(top, left, height, width)[..., -1:]
        if self.dtype != self._stored:
            alpha = alpha.astype(np.uint16) * 257
        return _three(alpha)

    def picture(self) -> Any:
        """The image of vips, with the values of the file."""
        return self._image

    def close(self) -> None:
        """Free the pixels and their temporary file."""
        self._image = None

    @property
    def _channels(self) -> int:
        return 1 if self.is_grey else 3

    def _region(self, top: int, left: int, height: int, width: int) -> Pixels:
        if not (0 <= top < top + height <= self.height and 0 <= left < left + width <= self.width):
            raise IndexError(
                f"rows {top}..{top + height}, columns {left}..{left + width} of a photo of "
                f"{self.width}x{self.height}"
            )
        data = load_vips().Region.new(self._image).fetch(left, top, width, height)
        return np.frombuffer(data, self._stored).reshape(height, width, -1)


def open_photo(path: str | os.PathLike[str], largest_megapixels: float = 500.0) -> Photo:
    """Decode an image file. The format follows from its content; only the first page is read.

    A JPEG has no checksum, so only a missing end is sure to be noticed.

    Raises:
        ImageError: the file is missing, not an image, truncated or damaged, has more pixels than
            allowed (only the header of such a file is read), or an unsupported pixel format.
        MissingDependencyError: pyvips is not installed.
    """
    path = Path(path)
    with _reading(path):
        image, extras, depth = _opened(path, largest_megapixels, decodes=True)
        return Photo(path, _decoded(path, image).autorot(), extras, depth)


def read_size(path: str | os.PathLike[str], largest_megapixels: float = 500.0) -> tuple[int, int]:
    """Height and width of an image after its orientation, px, from the header of its file.

    Raises:
        ImageError, MissingDependencyError: as for `open_photo`, but for damage behind the header.
    """
    path = Path(path)
    with _reading(path):
        image = _opened(path, largest_megapixels)[0].autorot()
        return image.height, image.width


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with reading(path, load_vips().Error):
            yield
    except ImageError as error:
        if "heif: Unsupported" in str(getattr(error.__cause__, "detail", "")):  # without HEVC
            raise undecodable(path, kind_of(path)) from error
        raise


def _opened(
    path: Path, largest_megapixels: float, *, decodes: bool = False
) -> tuple[Any, Extras, int]:
    """The image, its extras, and the bits of a channel.

    Args:
        decodes: decode what is decoded apart; the pixels of others are decoded as they are read.
    """
    kind = kind_of(path)
    if kind is BMP:
        # not Image.open, which has its own limit
        with reading(path, Exception), BmpImagePlugin.BmpImageFile(path) as bitmap:
            check_size(path, bitmap.width, bitmap.height, largest_megapixels)
            check_not_cut(path, bitmap)
            extras = Extras(has_resolution=any(bitmap.info.get("dpi", ())))
            return _from_pillow(bitmap), extras, 8
    if kind is JPEG:
        with open(path, "rb") as file:
            check_scans(path, file)
    image = load_lazily(path, kind.loader)
    check_size(path, image.width, image.height, largest_megapixels)
    extras = read_extras(path, kind, image)
    if decodes and kind.is_decoded_apart:
        image = decode_apart(path, kind.loader, image)
    depth = 16 if image.format == "ushort" else 8
    image = _grey_or_rgb(path, image)
    if kind.loader == AVIF.loader and depth == 16:
        # libvips shifts 10 or 12 bits to the left, so that white is below 65535
        depth = image.get("bits-per-sample")
        white = (2**depth - 1) << (16 - depth)
        image = (image * (65535 / white)).rint().cast("ushort")
    return image, extras, depth


def _from_pillow(bitmap: Image.Image) -> Any:
    converted = bitmap.convert({"1": "L", "P": "RGB"}.get(bitmap.mode, bitmap.mode))
    horizontal, vertical = bitmap.info.get("dpi", (72, 72))
    image = load_vips().Image.new_from_array(np.asarray(converted))
    return image.copy(xres=horizontal / MM_PER_INCH, yres=vertical / MM_PER_INCH)


def _grey_or_rgb(path: Path, image: Any) -> Any:
    """The image with 1 to 4 bands of 8 or 16 bits."""
    if image.format in ("uchar", "ushort"):
        if image.interpretation == "cmyk":
            image = image.icc_transform(
                "srgb",
                embedded=True,
                input_profile="cmyk",  # vips' own, where none is embedded
                intent="relative",
                black_point_compensation=True,
                depth=16 if image.format == "ushort" else 8,
            )
        if image.bands <= 4:
            return image
    raise ImageError(
        f"{path}: {image.bands} channels of {image.format} ({image.interpretation}); expected "
        "8 or 16 bit grey, RGB or CMYK, with or without alpha: convert it to such an image first"
    )


def _decoded(path: Path, image: Any) -> Any:
    """Make pixels readable in any order: in memory, or in a temporary file if they are many."""
    size = image.width * image.height * image.bands * (2 if image.format == "ushort" else 1)
    if size <= _MOST_IN_MEMORY_BYTES:
        return image.copy_memory()
    vips = load_vips()
    spool = vips.Image.new_temp_file("%s.v")
    try:
        image.write(spool)
    except vips.Error as error:
        if os.strerror(errno.ENOSPC) in error.detail:
            raise ImageError(
                f"{path}: no space for its pixels ({size >> 20} MiB) in "
                f"{os.environ.get('TMPDIR', '/tmp')}; set TMPDIR to a folder with more"
            ) from error
        raise
    return spool


def _metadata_of(image: Any, extras: Extras) -> Mapping[str, str | bytes]:
    kept = {"exif-data", "icc-profile-data", "iptc-data", "resolution-unit", "xmp-data"}
    if extras.has_gain_map:
        kept.remove("xmp-data")  # it describes the gain map
    exif = re.compile("exif-(?!ifd1)")  # ifd1 describes the thumbnail
    names = [name for name in field_names(image) if name in kept or exif.match(name)]
    return {name: image.get(name) for name in names}


def _resolution_of(image: Any) -> tuple[float, float]:
    if (image.xres, image.yres) != (1, 1):
        return image.xres, image.yres
    # vips has none; in WebP, only EXIF has it
    exif = {name: image.get(name) for name in field_names(image) if name.startswith("exif-ifd0-")}
    unit_mm = 10 if exif.get("exif-ifd0-ResolutionUnit", "").startswith("3") else MM_PER_INCH
    with suppress(KeyError, ValueError, ZeroDivisionError):
        x, y = (Fraction(exif[f"exif-ifd0-{axis}Resolution"].split()[0]) for axis in "XY")
        return float(x) / unit_mm, float(y) / unit_mm
    return 72 / MM_PER_INCH, 72 / MM_PER_INCH


def _three(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
