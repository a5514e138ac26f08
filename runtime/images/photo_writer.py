"""Write photographs of any size by rows, with the metadata of another.

ICC profile and XMP are kept byte for byte. EXIF, IPTC and the resolution are kept as far as the
format holds them: TIFF has no EXIF here, BMP only the resolution. Nothing is added but the 72 dpi
of a TIFF. PNG keeps cICP, gAMA, cHRM and sRGB. Thumbnails are dropped.

Rows stream through a short queue into the encoder. Formats that cannot do so are held whole: WebP,
AVIF and BMP.
"""

from __future__ import annotations

import os
import queue
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adadm.runtime.errors import ImageError
from adadm.runtime.files import written_whole
from adadm.runtime.images.arrays import Pixels, encoded
from adadm.runtime.images.photo_reader import Photo
from adadm.runtime.images.png_chunks import PNG_SIGNATURE, png_chunk, save_png
from adadm.runtime.images.vips import MM_PER_INCH, codec_reason, load_vips


class _Format(NamedTuple):
    name: str
    saver: str
    options: Mapping[str, object]
    most_bits: int = 8
    largest_px: int = 2**31 - 1  # largest side
    has_alpha: bool = True


# Deflate level 3 takes a third of the time of the usual 6 and 5 % more bytes; above 3 speed falls,
# below 3 size jumps. The PNG filter "up" beats "sub" on the output of networks, and choosing per
# row doubles the time.
_PNG = _Format("PNG", "pngsave", {"compression": 3, "filter": "up"}, most_bits=16)
_DEFLATE = {"compression": "deflate", "level": 3, "predictor": "horizontal"}
_TIFF = _Format("TIFF", "tiffsave", _DEFLATE, most_bits=16)
_JPEG = _Format("JPEG", "jpegsave", {"subsample_mode": "off"}, largest_px=65500, has_alpha=False)
_WEBP = _Format("WebP", "webpsave", {}, largest_px=16383)
_BMP = _Format("BMP", "bmp", {}, has_alpha=False)
_AVIF = _Format("AVIF", "heifsave", {"compression": "av1", "subsample_mode": "off"}, 12, 65535)
_FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".jpe": _JPEG,
    ".jfif": _JPEG,
    ".avif": _AVIF,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": _BMP,
}
WRITTEN_SUFFIXES = frozenset(_FORMATS)
"""Suffixes of the formats that are written."""

# The offsets of a classic TIFF have 32 bits; incompressible data grow a little.
_LARGEST_CLASSIC_TIFF_BYTES = 4_000_000_000

# Rows on their way to the encoder: this many pieces of this many bytes, or of one row.
_PIECES_QUEUED = 8
_PIECE_BYTES = 1 << 20


class PhotoWriter:
    """An image file that is written by rows and appears whole or not at all.

    A context manager: rows go to `write`; the end of the block waits for the encoder. Alpha is
    laid over white if the format has none (JPEG, BMP), and 16 bits are rounded to 8 if the format
    has 8 (JPEG, WebP, BMP), or to 10 or 12 (AVIF).

    Args:
        path: the file; its suffix chooses the format.
        like: source of the size, pixel format and metadata; it may be closed before the writing.
        upscale: factor from the sides of `like` to those of the written image.
        size: height and width of the written image instead, px.
        quality: quality of JPEG and AVIF (without chroma subsampling) and WebP, 1..100.

    Attributes:
        notes: what of `like` the format cannot hold, in a few words each.

    Raises:
        ImageError: the suffix names no format, the image is too large for the format, or (from
            `write` and the end of the block) the encoder failed, as on a full disk.
        OSError: the file cannot be made.
        ValueError: the quality is out of range, or rows are missing at the end of the block.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: Photo,
        upscale: int,
        *,
        size: tuple[int, int] | None = None,
        quality: int = 95,
    ) -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"quality: expected 1 to 100, got {quality}")
        self._path = Path(path)
        suffix = self._path.suffix.lower()
        if suffix not in _FORMATS:
            suffixes = ", ".join(_FORMATS)
            raise ImageError(f"{path}: expected one of {suffixes}, got {suffix!r}")
        self._format = _FORMATS[suffix]
        height, width = size or (like.height * upscale, like.width * upscale)
        channels = (1 if like.is_grey else 3) + like.has_alpha
        self._shape = height, width, channels
        if max(height, width) > self._format.largest_px:
            raise ImageError(
                f"{path}: expected sides of at most {self._format.largest_px} px "
                f"({self._format.name}), got {width}x{height}; write PNG or TIFF"
            )
        # without a name for it, the curve of the file is left for sRGB's
        names_curve = self._format is _PNG or like.extras.has_profile
        self._dtype, self._curves = like.dtype, like.curves if names_curve else None
        self._depth = 16 if like.depth > 8 and self._format.most_bits > 8 else 8
        self._has_alpha = like.has_alpha
        self._flattens = like.has_alpha and not self._format.has_alpha
        self._metadata, self._resolution = like.metadata, like.resolution
        self._has_exif = any(name.startswith("exif-") for name in like.metadata)
        self._options = dict(self._format.options)
        if self._format in (_JPEG, _WEBP, _AVIF):
            self._options["Q"] = quality
        if self._format is _AVIF:
            self._options["bitdepth"] = min(12, like.depth)
        if self._format is _TIFF:
            bytes_in_all = height * width * channels * self._depth // 8
            self._options["bigtiff"] = bytes_in_all > _LARGEST_CLASSIC_TIFF_BYTES
        self._chunks = like.extras.png_chunks
        lost = like.extras.colours(has_srgb_curve=like.curves is not None)
        said = f"its colours ({lost}) cannot be named in {self._format.name}, and will be shown as "
        is_lost = lost and self._format is not _PNG
        self.notes: tuple[str, ...] = (said + "others; write PNG to keep them",) if is_lost else ()
        self._rows = 0
        self._stored = zlib.compressobj(0)

    def __enter__(self) -> PhotoWriter:
        self._open = ExitStack()
        self._open.enter_context(self._encoding())
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def close_in(self, executor: Executor) -> Future[None]:
        """Wait for the encoder in `executor` instead of at the end of the block.

        The future raises what the end of the block would raise.
        """
        return executor.submit(self._open.pop_all().close)

    def write(self, rows: Pixels) -> None:
        """Give the next rows (h, W, C) in the photo's dtype. Waits while the queue is full.

        Raises:
            ImageError: the encoder failed.
            ValueError: W, C or the dtype differ, or there are more rows than the image has.
        """
        fits = self._rows + len(rows) <= self._shape[0]
        if rows.shape[1:] != self._shape[1:] or rows.dtype != self._dtype or not fits:
            raise ValueError(
                f"expected rows of {self._shape} {self._dtype} after {self._rows}, got "
                f"{rows.shape} {rows.dtype}"
            )
        self._rows += len(rows)
        step = max(1, _PIECE_BYTES // max(1, rows[:1].nbytes))
        for top in range(0, len(rows), step):
            piece = rows[top : top + step]
            if self._curves:
                colour, alpha = np.split(piece, [piece.shape[2] - self._has_alpha], axis=2)
                piece = np.concatenate([self._curves.decode(colour), alpha], axis=2)
            if self._flattens:
                piece = _over_white(piece)
            if self._depth == 8:
                piece = _rounded_to_8_bits(piece)
            lines = piece.astype(piece.dtype.newbyteorder(">"), order="C").view(np.uint8)
            # the zero before each line means: not filtered
            filtered = np.pad(lines.reshape(len(lines), -1), ((0, 0), (1, 0)))
            self._encoder.put(png_chunk(b"IDAT", self._stored.compress(filtered.data)))

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        with written_whole(self._path) as partial:
            self._encoder = _Encoder(self._path, lambda image: self._save(image, partial))
            try:
                channels = self._shape[2] - self._flattens
                self._encoder.put(_png_start(*self._shape[:2], channels, self._depth))
                yield
                if self._rows != self._shape[0]:
                    raise ValueError(f"expected {self._shape[0]} rows, got {self._rows}")
                self._encoder.put(png_chunk(b"IDAT", self._stored.flush()))
                self._encoder.put(png_chunk(b"IEND", b""))
                self._encoder.finish()
            except BaseException:
                self._encoder.abort()
                raise

    def _save(self, image: Any, partial: Path) -> None:
        horizontal, vertical = self._resolution or (0, 0)
        if self._format is _BMP:
            dpi = (horizontal * MM_PER_INCH, vertical * MM_PER_INCH)
            partial.write_bytes(encoded(image.numpy(), ".bmp", dpi=dpi))
            return
        value_types = load_vips().GValue
        if self._resolution:  # else it has 72 dpi, which an EXIF has to have
            image = image.copy(xres=horizontal, yres=vertical)
        for name, value in self._metadata.items():
            kind = value_types.refstr_type if isinstance(value, str) else value_types.blob_type
            image.set_type(kind, name, value)
        for name in set(image.get_fields()) - set(self._metadata):
            # vips has parsed the EXIF again, with the orientation and the thumbnail
            if name.startswith("exif-") or name in ("orientation", "jpeg-thumbnail-data"):
                image.remove(name)
        # vips makes an EXIF for the resolution; all but PNG have no other place for that
        if not self._has_exif and (self._format is _PNG or not self._resolution):
            self._options["keep"] = "icc|xmp|iptc"
        if self._format is _PNG:
            drop = b"" if self._resolution else b"pHYs"
            save_png(image, partial, self._options, self._chunks, drop)
            return
        getattr(image, self._format.saver)(os.fsencode(partial), **self._options)


def _over_white(pixels: Pixels) -> Pixels:
    """Lay colour over white by its alpha, and drop the alpha."""
    white = int(np.iinfo(pixels.dtype).max)
    colour, alpha = pixels[..., :-1].astype(np.uint32), pixels[..., -1:].astype(np.uint32)
    # just below 2 ** 32
    covered = (colour * alpha + white * (white - alpha) + white // 2) // white
    return covered.astype(pixels.dtype)


def _rounded_to_8_bits(pixels: Pixels) -> Pixels:
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


class _Encoder:
    """Runs `save(image)` in its own thread, on an image that arrives as pieces of a PNG.

    The PNG is not compressed. Every libvips reads PNG row by row; PPM would be simpler, but is
    missing from the wheels.
    """

    def __init__(self, path: Path, save: Callable[[Any], None]) -> None:
        self._path = path
        self._save = save
        self._pieces: queue.Queue[bytes] = queue.Queue(_PIECES_QUEUED)
        self._piece = memoryview(b"")
        self._ended = False
        self._failure: ImageError | None = None
        self._thread = threading.Thread(target=self._run, name="photo encoder", daemon=True)
        self._thread.start()

    def put(self, piece: bytes) -> None:
        """Hand over a piece when there is room, or raise the encoder's failure."""
        while self._thread.is_alive():
            with suppress(queue.Full):
                self._pieces.put(piece, timeout=0.1)
                return
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Wait for the end of `save`, or raise its failure."""
        self.put(b"")
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def abort(self) -> None:
        """Make `save` fail for lack of data, and wait for that."""
        with suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()
        self._pieces.put(b"")  # there is room now; this wakes the thread
        self._thread.join()

    def _run(self) -> None:
        try:
            vips = load_vips()
            source = vips.SourceCustom()
            source.on_read(self._read)
            options = {"access": "sequential", "fail_on": "error", "unlimited": True}
            self._save(vips.Image.pngload_source(source, **options))
        except Exception as error:  # noqa: BLE001 - raised where rows are written
            self._failure = ImageError(f"{self._path}: cannot be written ({codec_reason(error)})")
            self._failure.__cause__ = error.with_traceback(
                None
            )  # a traceback would keep the file open

    def _read(self, most: int) -> memoryview:
        """Return at most `most` of the next bytes; none at the end."""
        if not self._piece and not self._ended:
            self._piece = memoryview(self._pieces.get())
            self._ended = not self._piece
        if self._ended:
            return memoryview(b"")
        part, self._piece = self._piece[:most], self._piece[most:]
        return part


def _png_start(height: int, width: int, channels: int, depth: int) -> bytes:
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", header)
