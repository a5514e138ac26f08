"""Patterns of drawn pictures: text, lines, screens, pages, noise.

A *pattern* is the share of ink in each pixel, float (H, W) or (H, W, 3) in 0..1. `UNSEEN` are
patterns of other kinds, which training never draws: they test a network trained on `KINDS`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pattern = npt.NDArray[np.floating]

_LETTERS = string.ascii_letters + string.digits + ".,;:!?()[]{}<>+-=/&%#"


@dataclass(frozen=True)
class Kind:
    """A kind of pattern.

    Attributes:
        pattern: makes a pattern from its side (px), its scale (px) and a random generator.
        scales: scales in `drawn_pictures`, px: a period, a width, or the height of letters.
    """

    pattern: Callable[[int, int, np.random.Generator], Pattern]
    scales: tuple[int, ...]


class _Canvas:
    """A drawing with Pillow, black at first, that becomes a pattern."""

    def __init__(self, side: int, mode: str = "L") -> None:
        self.side = side
        self.image = Image.new(mode, (side, side))
        self.draw = ImageDraw.Draw(self.image)

    def pattern(self) -> Pattern:
        return np.asarray(self.image) / 255.0

    def write(self, left: float, top: float, height: int, rng: np.random.Generator) -> None:
        """Draw a line of random words from (left, top) to the right border."""
        font = ImageFont.load_default(size=max(5, height))
        count = 2 + int((self.side - left) / (0.5 * max(5, height)))
        letters = rng.choice(list(_LETTERS + " " * 12), count)
        white = 255 if self.image.mode == "L" else (255, 255, 255)
        self.draw.text((left, top), "".join(letters), fill=white, font=font)


def _grid(side: int) -> tuple[Pattern, Pattern]:
    """Row and column of all pixels, relative to the middle, px."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    return rows, columns


def _text(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    canvas = _Canvas(side)
    for top in range(0, side, round(1.3 * max(5, scale))):
        canvas.write(int(rng.integers(-scale, scale + 1)), top, scale, rng)
    return canvas.pattern()


def _line_art(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    canvas = _Canvas(side)
    for corners in rng.integers(0, side, (max(4, side // (2 * scale)), 4)):
        (left, right), (top, bottom) = sorted(corners[::2]), sorted(corners[1::2])
        width = max(1, scale // 4)
        shape = rng.integers(4)
        if shape == 0:
            canvas.draw.ellipse((left, top, right, bottom), outline=255, width=width)
        elif shape == 1:
            canvas.draw.rectangle((left, top, right, bottom), outline=255, width=width)
        else:
            canvas.draw.line(tuple(corners), fill=255, width=width)
    return canvas.pattern()


def _stripes(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    rows, columns = _grid(side)
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    return _square_wave(rows * np.sin(angle) + columns * np.cos(angle), scale)


def _checker(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    rows, columns = (np.arange(side) + rng.integers(scale)) // scale, np.arange(side) // scale
    cells: Pattern = (rows[:, None] + columns) % 2 * 1.0
    return cells


def _rings(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    rows, columns = _grid(side)
    return _square_wave(np.hypot(rows, columns) + rng.integers(scale), scale)


def _square_wave(distance: Pattern, width: int) -> Pattern:
    """Bands of `width` px, with edges one pixel wide."""
    phase = np.abs(distance / width % 2 - 1) - 0.5  # -0.5..0.5 over a band
    return np.clip(0.5 + phase * width, 0, 1)


def _bars(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """Saturated colours side by side, like a television test picture."""
    colours = np.array(list(product((0.0, 1.0), repeat=3)))
    order = rng.permuted(np.resize(np.arange(8), -(-side // scale)))
    return np.tile(np.repeat(colours[order], scale, axis=0)[:side], (side, 1, 1))


def _gradient(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """A gradient between the two colours in `scale` steps; smooth for 1."""
    rows, columns = _grid(side)
    angle = rng.uniform(0, np.pi)
    ramp: Pattern = np.clip(0.5 + (rows * np.sin(angle) + columns * np.cos(angle)) / side, 0, 1)
    if scale > 1:
        ramp = np.round(ramp * scale) / scale
    return ramp


def _noise(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    cells = rng.random((-(-side // scale),) * 2 + (3,) * int(rng.integers(2)))
    if rng.random() < 0.5:
        cells = np.round(cells)
    return cells.repeat(scale, axis=0).repeat(scale, axis=1)[:side, :side]


def _halftone(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    rows, columns = _grid(side)
    pitch = max(3, scale)
    dots = np.cos(2 * np.pi * rows / pitch) * np.cos(2 * np.pi * columns / pitch) / 2 + 0.5
    return np.clip(0.5 + (dots - _gradient(side, 1, rng)) * pitch / 2, 0, 1)


def _screenshot(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """Windows with title bars, lines of text and buttons."""
    canvas = _Canvas(side, "RGB")
    letter = 6 + scale // 2
    for left, top, *colour in rng.integers(
        (-side // 2,) * 2 + (0,) * 3, (side // 2,) * 2 + (256,) * 3, (4, 5)
    ):
        right, bottom = left + rng.integers(side // 3, side), top + rng.integers(side // 3, side)
        canvas.draw.rectangle((left, top, right, bottom), fill=tuple(colour), outline=(9, 9, 9))
        canvas.draw.rectangle((left, top, right, top + letter + 4), fill=(20, 60, 160))
        canvas.write(left + 3, top + 1, letter, rng)
        for line in range(top + letter + 8, min(bottom, side), letter + 3):
            canvas.write(left + 3, line, letter, rng)
        canvas.draw.rectangle((right - 16, bottom - 8, right - 2, bottom - 2), fill=(230, 40, 40))
    return canvas.pattern()


def _page(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """A heading, paragraphs with a margin, a rule and a filled figure."""
    canvas = _Canvas(side)
    letter, margin = 5 + scale // 3, side // 12
    canvas.write(margin, margin, 2 * letter, rng)
    canvas.draw.line((margin, margin + 3 * letter, side - margin, margin + 3 * letter), fill=255)
    for top in range(margin + 4 * letter, side - margin, letter + 2 + int(rng.integers(3))):
        canvas.write(margin, top, letter, rng)
    canvas.draw.rectangle((side - margin, 0, side, side), fill=0)
    canvas.draw.ellipse((side // 2, side // 2, side - margin, side - margin), fill=255)
    return canvas.pattern()


def _shapes(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """Overlapping filled areas in saturated colours and greys."""
    canvas = _Canvas(side, "RGB")
    for left, top in rng.integers(-scale, side, (max(8, side // scale), 2)):
        right, bottom = rng.integers(
            (left + scale, top + scale), (left + side + scale, top + side + scale)
        )
        fill = tuple(int(level) for level in rng.choice([0, 0, 128, 255, 255], 3))
        draw = canvas.draw.ellipse if rng.random() < 0.5 else canvas.draw.rectangle
        draw((left, top, right, bottom), fill=fill)
    return canvas.pattern()


def _spiral(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    rows, columns = _grid(side)
    turn = np.arctan2(rows, columns) / np.pi + rng.uniform(0, 2)
    return _square_wave(np.hypot(rows, columns) + turn * scale, scale)


def _zone_plate(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """Rings that become finer outwards, down to the scale at the borders."""
    rows, columns = _grid(side)
    phase = np.pi * (rows**2 + columns**2) / (scale * side) + rng.uniform(0, np.pi)
    wave: Pattern = np.cos(phase) / 2 + 0.5
    return wave


def _barcode(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    widths = scale * rng.integers(1, 5, side)
    return np.tile(np.repeat(np.arange(side) % 2, widths)[:side] * 1.0, (side, 1))


def _mosaic(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """Cells around random points, one colour each."""
    points = rng.uniform(0, side, (max(3, side // scale) ** 2, 2))
    rows, columns = np.mgrid[:side, :side]
    distances = np.hypot(rows[..., None] - points[:, 0], columns[..., None] - points[:, 1])
    colours: Pattern = rng.choice([0.0, 0.5, 1.0], (len(points), 3))
    cells: Pattern = colours[distances.argmin(axis=-1)]
    return cells


def _star(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """Spokes that meet in the middle (Siemens star); the scale is their width at the borders."""
    rows, columns = _grid(side)
    spokes = max(2, round(np.pi * side / 4 / scale)) * 2
    radius = np.hypot(rows, columns) + 1e-9
    angle = np.arctan2(rows, columns) + rng.uniform(0, np.pi)
    wave = np.sin(spokes * angle) * radius / spokes
    return np.clip(0.5 + wave, 0, 1)


def _notes(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """Staves of five lines with notes on them."""
    canvas = _Canvas(side)
    for staff in range(scale, side, 9 * scale):
        for line in range(5):
            canvas.draw.line((0, staff + line * scale, side, staff + line * scale), fill=255)
        for left in range(scale, side, 3 * scale):
            top = staff + scale * int(rng.integers(0, 8)) // 2
            canvas.draw.ellipse((left, top, left + 1.3 * scale, top + scale), fill=255)
            canvas.draw.line((left, top + scale // 2, left, top - 3 * scale), fill=255)
    return canvas.pattern()


def _sprites(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """Symmetrical figures of large pixels, like those of old games."""
    count = -(-side // (9 * scale))
    rows = [np.concatenate([_sprite(rng) for _ in range(count)], axis=1) for _ in range(count)]
    return np.concatenate(rows).repeat(scale, axis=0).repeat(scale, axis=1)[:side, :side]


def _sprite(rng: np.random.Generator) -> Pattern:
    half = (rng.random((8, 4)) < 0.5)[..., None] * rng.choice([0.0, 1.0], (8, 4, 3))
    return np.pad(np.concatenate([half, half[:, ::-1]], axis=1), ((0, 1), (0, 1), (0, 0)))


def _chart(side: int, scale: int, rng: np.random.Generator) -> Pattern:
    """Axes, columns and a curve."""
    canvas = _Canvas(side)
    for left in range(scale, side, 2 * scale):
        canvas.draw.rectangle((left, int(rng.integers(side)), left + scale, side), fill=160)
    steps = np.cumsum(rng.normal(0, side / 12, side // 4)) + side / 2
    points = [(4.0 * index, float(height)) for index, height in enumerate(steps)]
    canvas.draw.line(points, fill=255, width=max(1, scale // 4))
    return canvas.pattern()


KINDS: Mapping[str, Kind] = {
    "text": Kind(_text, (9, 14, 28)),
    "line_art": Kind(_line_art, (4,)),
    "stripes": Kind(_stripes, (2, 8)),
    "checker": Kind(_checker, (1, 2, 8)),
    "rings": Kind(_rings, (4,)),
    "bars": Kind(_bars, (12,)),
    "gradient": Kind(_gradient, (1, 8)),
    "noise": Kind(_noise, (1, 4)),
    "halftone": Kind(_halftone, (4, 8)),
    "screenshot": Kind(_screenshot, (8,)),
    "page": Kind(_page, (9,)),
    "shapes": Kind(_shapes, (16,)),
}
UNSEEN: Mapping[str, Kind] = {
    "spiral": Kind(_spiral, (5,)),
    "zone_plate": Kind(_zone_plate, (2,)),
    "barcode": Kind(_barcode, (1, 3)),
    "mosaic": Kind(_mosaic, (10,)),
    "star": Kind(_star, (6,)),
    "notes": Kind(_notes, (5,)),
    "sprites": Kind(_sprites, (1, 3)),
    "chart": Kind(_chart, (5,)),
}
