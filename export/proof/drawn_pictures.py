"""Drawn pictures: text, lines, patterns, screens, in contrasts that photographs do not reach.

An AdaDM network trained only on photographs can run away on such pictures, so networks are tested
on them. A picture mixes two colours by a pattern, channel by channel. Plain pictures are ramps,
flats and edges: artefacts of a lowered model hide in texture, and show there.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import numpy.typing as npt

from adadm.export.proof.patterns import KINDS, UNSEEN, Pattern
from adadm.runtime.images.arrays import ImageArray

Colour = tuple[int, int, int]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
_DIM = ((70, 90, 60), (185, 200, 170))

RAMPS: dict[str, tuple[Colour, Colour, int]] = {
    "ramp from black to white": (BLACK, WHITE, 1),
    "dark ramp": ((16, 16, 16), (80, 80, 80), 1),
    "ramp of a sky": ((60, 110, 190), (170, 200, 230), 0),
    "ramp of skin": ((90, 50, 35), (235, 190, 165), 0),
}
"""First colour, last colour, and the axis of the picture along which they change."""

_FLATS: dict[str, Colour] = {
    **{f"grey {level}": (level, level, level) for level in (0, 32, 64, 128, 192, 255)},
    "skin": (225, 180, 160),
    "sky": (110, 160, 220),
    "leaves": (90, 120, 60),
    "bricks": (170, 90, 70),
}
_CHECK_PX = 8
_PLAIN_PX = (48, 64)


def drawn_pictures(side: int = 96, *, unseen: bool = False) -> dict[str, ImageArray]:
    """Reproducible pictures of each kind, scale and contrast, uint8 (side, side, 3), by name.

    Args:
        side: height and width, px.
        unseen: draw the kinds that are not for training.
    """
    contrasts = {"": (BLACK, WHITE), "_inverted": (WHITE, BLACK), "_dim": _DIM}
    pictures = {}
    for seed, (name, kind) in enumerate((UNSEEN if unseen else KINDS).items()):
        for scale, (contrast, (ink, paper)) in product(kind.scales, contrasts.items()):
            pattern = kind.pattern(side, scale, np.random.default_rng(seed))
            pictures[f"{name}_{scale}{contrast}"] = mix(pattern, ink, paper)
    return pictures


def draw_at_random(side: int, rng: np.random.Generator) -> ImageArray:
    """Random picture of one of `KINDS`, uint8 (side, side, 3).

    Half have the scale of one pixel, the hardest, and half are black and white.
    """
    kind = KINDS[rng.choice(list(KINDS))]
    scale = 1 if rng.random() < 0.5 else round(2 ** rng.uniform(0, 5))
    ink, paper = (BLACK, WHITE) if rng.random() < 0.5 else rng.integers(0, 256, (2, 3))
    pattern = kind.pattern(side, scale, rng)
    return mix(1 - pattern if rng.random() < 0.5 else pattern, ink, paper)


def mix(pattern: Pattern, ink: npt.ArrayLike, paper: npt.ArrayLike) -> ImageArray:
    """Mix two colours, RGB 0..255, by a pattern: uint8 (H, W, 3)."""
    share = pattern if pattern.ndim == 3 else pattern[..., None]
    ink, paper = np.asarray(ink, float), np.asarray(paper, float)
    mixed: ImageArray = np.rint(paper + share * (ink - paper)).astype(np.uint8)
    return mixed


def plain_size(smallest_area: int) -> tuple[int, int]:
    """H and W of plain pictures, px; larger for a network that requires a larger area."""
    height, width = _PLAIN_PX
    enlarged = max(1, math.ceil(math.sqrt(smallest_area / (height * width))))
    return height * enlarged, width * enlarged


def plain_pictures(height: int, width: int) -> dict[str, ImageArray]:
    """All ramps, flats and edges (H, W, 3) by name."""
    return {**ramps(height, width), **flats(height, width), **edges(height, width)}


def ramps(height: int, width: int) -> dict[str, ImageArray]:
    """Smooth ramps (H, W, 3), on which banding shows."""
    drawn = {}
    for name, (first, last, axis) in RAMPS.items():
        share = np.linspace(0, 1, (height, width)[axis])
        pattern = np.broadcast_to(share if axis else share[:, None], (height, width))
        drawn[name] = mix(pattern, last, first)
    return drawn


def flats(height: int, width: int) -> dict[str, ImageArray]:
    """Pictures (H, W, 3) of one colour each, on which tints and patterns show."""
    return {name: np.full((height, width, 3), rgb, np.uint8) for name, rgb in _FLATS.items()}


def edges(height: int, width: int) -> dict[str, ImageArray]:
    """Step edges (H, W, 3), at which ringing shows."""
    y, x = np.mgrid[:height, :width]
    cells = (x // _CHECK_PX + y // _CHECK_PX) % 2
    return {
        "vertical edge": mix(1.0 * (x >= width // 2), WHITE, BLACK),
        "horizontal edge": mix(1.0 * (y >= height // 2), WHITE, BLACK),
        "checkerboard": mix(1.0 * cells, (192,) * 3, (64,) * 3),
    }
