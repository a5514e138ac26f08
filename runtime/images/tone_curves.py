"""Tone curves of files whose values are linear in light, or nearly so.

Networks know photographs whose values follow a curve like sRGB's. Others are converted to such a
curve of the same primaries before the network, and back after it. What is near sRGB's curve stays
as it is: gamma 1.8 and 2.2, and the darker curves of HDR (PQ, HLG).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

_FAR = 0.12
"""Largest distance above sRGB's curve, of 1, that is left: gamma 1.6 has 0.11, gamma 1.5 0.14.

The bundled x2 loses 1.4 dB on values of gamma 1, 0.2 dB on gamma 1.5, 0.1 dB on gamma 1.8.
"""

_LEVELS = 1 << 16
_LINEAR_TRANSFER = 8
"""Linear light in ITU-T H.273."""


class ToneCurves(NamedTuple):
    """Tables between the values of a file and those of sRGB's curve with 16 bits.

    Attributes:
        forward: (C, levels of the file) uint16, for one channel (grey) or three.
        back: (C, 65536) uint16, to the file's values as 16 bits.
    """

    forward: npt.NDArray[np.uint16]
    back: npt.NDArray[np.uint16]

    def encode(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """Values (..., C) of the file to values of sRGB's curve."""
        return _looked_up(self.forward, pixels)

    def decode(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """The inverse of `encode`, with 16 bits."""
        return _looked_up(self.back, pixels)


def _looked_up(tables: npt.NDArray[np.uint16], pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    planes = [table[pixels[..., c]] for c, table in enumerate(tables)]
    return np.stack(planes, axis=-1)


def find_tone_curves(
    profile: bytes | None,
    chunks: Mapping[bytes, bytes],
    cicp: tuple[int, int] | None,
    dtype: npt.DTypeLike,
    channels: int,
) -> ToneCurves | None:
    """Tables for a file whose curve is far from sRGB's; None for others.

    Args:
        profile: ICC profile of the file.
        chunks: PNG chunks of the file.
        cicp: primaries and transfer of ITU-T H.273; precedes the profile, which precedes sRGB and
            gAMA, as PNG orders them.
        dtype: uint8 or uint16.
        channels: colour channels, 1 or 3.
    """
    x = np.linspace(0, 1, _LEVELS)
    light: list[Values] = []
    if cicp is not None:
        light = [x] if cicp[1] == _LINEAR_TRANSFER else []
    elif profile is not None:
        light = _light_of_profile(profile, x, channels)
    elif b"sRGB" not in chunks and len(chunks.get(b"gAMA", b"")) == 4:
        gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000
        light = [x ** (1 / gamma)] if gamma > 0 else []
    if not light or not all(_is_invertible(values) for values in light):
        return None
    if max(float(np.max(_srgb_curve(values) - x)) for values in light) <= _FAR:
        return None
    light = light * channels if len(light) == 1 else light
    step = (_LEVELS - 1) // int(np.iinfo(np.dtype(dtype)).max)
    to_light = _light_of_srgb(x)
    forward = [_as_integers(_srgb_curve(values))[::step] for values in light]
    back = [_as_integers(np.interp(to_light, values, x)) for values in light]
    return ToneCurves(np.stack(forward), np.stack(back))


def _as_integers(values: Values) -> npt.NDArray[np.uint16]:
    return np.rint(values * (_LEVELS - 1)).astype(np.uint16)


def _is_invertible(light: Values) -> bool:
    return bool(np.all(np.diff(light) >= 0) and light[0] < 0.01 and light[-1] > 0.99)


def _srgb_curve(light: Values) -> Values:
    """IEC 61966-2-1: light 0..1 to a value 0..1."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _light_of_srgb(values: Values) -> Values:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _light_of_profile(profile: bytes, x: Values, channels: int) -> list[Values]:
    """The curves of a profile, one a channel; none if it has no such curves or is damaged.

    ICC.1:2022, 7.2, 7.3 and 10.6, 10.18. A grey profile whose connection space is Lab has curves
    of lightness, which is no light.
    """
    names = {b"RGB ": (b"rTRC", b"gTRC", b"bTRC"), b"GRAY": (b"kTRC",)}.get(profile[16:20], ())
    if not names or profile[20:24] != b"XYZ " or len(names) != channels:
        return []
    try:
        count = struct.unpack_from(">I", profile, 128)[0]
        entries = (
            struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(min(count, 99))
        )
        tags = {name: profile[start : start + size] for name, start, size in entries}
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            return [_curve(tags[name], x) for name in names]
    except (struct.error, KeyError, ValueError, ZeroDivisionError, FloatingPointError):
        return []


def _curve(tag: bytes, x: Values) -> Values:
    if tag[:4] == b"curv":
        count = struct.unpack_from(">I", tag, 8)[0]
        if count == 0:
            return x
        if count == 1:
            return np.asarray(x ** (struct.unpack_from(">H", tag, 12)[0] / 256))
        points = np.frombuffer(tag, ">u2", count, 12) / (_LEVELS - 1)
        return np.interp(x, np.linspace(0, 1, count), points)
    if tag[:4] != b"para":
        raise ValueError(f"expected a curve, got {tag[:4]!r}")
    kind = struct.unpack_from(">H", tag, 8)[0]
    counts = (1, 3, 4, 5, 7)
    if kind >= len(counts):
        raise ValueError(f"expected a parametric curve of type 0 to 4, got {kind}")
    given = np.array(struct.unpack_from(f">{counts[kind]}i", tag, 12)) / 65536
    g, a, b, c, d, e, f = np.pad(given, (0, 7 - len(given)))
    if kind == 0:
        return np.asarray(x**g)
    if kind < 3:  # below -b/a: c, which type 1 has not
        powers = np.maximum(a * x + b, 0) ** g
        return np.asarray(np.where(x >= -b / a, powers, 0) + (c if kind == 2 else 0))
    powers = np.maximum(a * x + b, 0) ** g + e
    return np.asarray(np.where(x >= d, powers, c * x + f))
