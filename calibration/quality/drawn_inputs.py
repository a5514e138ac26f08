"""Drawn test images: artefacts hide in texture, and show on smooth, flat or sharp content.

The images are grey or have the colours of skin, sky, leaves and bricks, since networks diverge on
saturated colours already in float32.
"""

from __future__ import annotations

import math

import numpy as np

from adadm.runtime.images.arrays import ImageArray

_CHECK_PX = 8
_USUAL_PX = (48, 64)

RAMPS = {
    "ramp from black to white": ((0, 0, 0), (255, 255, 255), 1),
    "dark ramp": ((16, 16, 16), (80, 80, 80), 1),
    "ramp of a sky": ((60, 110, 190), (170, 200, 230), 0),
    "ramp of skin": ((90, 50, 35), (235, 190, 165), 0),
}
"""First colour, last colour, and the axis of the image along which they change."""

_FLATS = {
    **{f"grey {level}": (level, level, level) for level in (0, 32, 64, 128, 192, 255)},
    "skin": (225, 180, 160),
    "sky": (110, 160, 220),
    "leaves": (90, 120, 60),
    "bricks": (170, 90, 70),
}


def drawn_size(smallest_area: int) -> tuple[int, int]:
    """H and W of drawn images, px; larger for a network that requires a larger area."""
    height, width = _USUAL_PX
    enlarged = max(1, math.ceil(math.sqrt(smallest_area / (height * width))))
    return height * enlarged, width * enlarged


def drawn_inputs(height: int, width: int) -> dict[str, ImageArray]:
    """All drawn inputs (H, W, 3) by name."""
    return {**ramps(height, width), **flats(height, width), **edges(height, width)}


def ramps(height: int, width: int) -> dict[str, ImageArray]:
    """Smooth ramps (H, W, 3), on which banding shows."""
    drawn = {}
    for name, (first, last, axis) in RAMPS.items():
        share = np.linspace(0, 1, (height, width)[axis])
        share = np.broadcast_to(share if axis else share[:, None], (height, width))[..., None]
        drawn[name] = np.rint(share * last + (1 - share) * first).astype(np.uint8)
    return drawn


def flats(height: int, width: int) -> dict[str, ImageArray]:
    """Images (H, W, 3) of one colour each, on which tints and patterns show."""
    return {name: np.full((height, width, 3), rgb, np.uint8) for name, rgb in _FLATS.items()}


def edges(height: int, width: int) -> dict[str, ImageArray]:
    """Step edges (H, W, 3), at which ringing shows."""
    y, x = np.mgrid[:height, :width]
    drawn = {
        "vertical edge": 255 * (x >= width // 2),
        "horizontal edge": 255 * (y >= height // 2),
        "checkerboard": 64 + 128 * ((x // _CHECK_PX + y // _CHECK_PX) % 2),
    }
    return {n: image.astype(np.uint8)[..., None].repeat(3, axis=2) for n, image in drawn.items()}
