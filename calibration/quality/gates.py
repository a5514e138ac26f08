"""Limits of visible artefacts that a lowered model adds and PSNR does not show.

A gate is one number: the difference between a lowered model and its float32 reference, in grey
levels of 255 as displayed: clipped to black and white, before rounding. The photographs are the
first of the calibration's; the other inputs are drawn. An input on which the reference itself is
lost cannot judge: its gates leave it out, and it is a failed result of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adadm.calibration.quality.photographs import Photograph
from adadm.export.proof.drawn_pictures import RAMPS, edges, flats, ramps
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import (
    Batch,
    ImageArray,
    batch_from_image,
    enlarge,
    image_from_batch,
)
from adadm.runtime.images.metrics import LARGEST_LOSS_DB, psnr_y, resemblance_margin

Run = Callable[[Batch], Batch]
Levels = npt.NDArray[np.float64]


class Gate(NamedTuple):
    """A figure with an upper limit, `threshold`, and a remedy."""

    name: str
    unit: str
    threshold: float
    remedy: str


BORDER = Gate(
    "border",
    "dB",
    3.0,
    "a convolution pads with a value other than its zero, or ranges are too small for borders",
)
"""Ratio of the power of the error within 4 px of the input from an edge to that further inside.
1/12 is added to both: the power of rounding to 8 bits, below which no error shows. 3 dB is twice
the power; with correct padding, borders are no harder than the rest."""

SHIFT = Gate("mean shift", "levels", 0.5, "a bias or a zero point is off; correct the biases")
"""Largest mean error of a colour channel over one photograph. 0.5 moves every other pixel by one
level, a tint of the whole image. Rounding to nearest has a mean of 0."""

BANDING = Gate("banding", "levels", 4.0, "keep the last convolutions in higher precision")
"""Largest variation of the error, averaged along the bands, within 8 px of the input on a smooth
ramp. 4 levels are the clearly visible bands of a 6-bit display; those of 7 bits pass."""

FLAT_LEVEL = Gate("flat level", "levels", 5.0, "widen the ranges to hold flat black and white")
"""Largest error on a flat image, border included. Two patches side by side become distinguishable
at some 2 % of white, 5 levels."""

FLAT_STRUCTURE = Gate("flat structure", "levels", 1.5, "keep the tail in higher precision")
"""Largest standard deviation of the error inside a flat image, where nothing masks a pattern. 1.5
spans four displayed levels."""

RINGING = Gate("ringing", "levels", 10.0, "widen the ranges to hold hard edges")
"""Largest error at a step from black to white and on a checkerboard. A contour masks errors up to
some 4 % of its height."""

GATES = (BORDER, SHIFT, BANDING, FLAT_LEVEL, FLAT_STRUCTURE, RINGING)

LOST = Gate(
    "input",
    "dB",
    LARGEST_LOSS_DB,
    "float32 itself resembles the input less than bicubic interpolation, so that the input judges "
    "nothing; use a network with limits (--limit), or accept the input by name (--accept)",
)
"""By how much bicubic interpolation resembles an input better than float32 does. Each input on
which float32 fails has this gate under its own name."""

WORSE_THAN_BICUBIC = Gate(
    "worse-than-bicubic",
    "dB",
    0.0,
    "the network is untrained, or its hyper-parameters differ from those of its training; give "
    "them by option, or accept it (--accept worse-than-bicubic)",
)
"""PSNR-Y of bicubic interpolation minus that of float32, as means over photographs."""

_BORDER_PX, _BAND_PX = 4, 8
_ROUNDING_POWER = 1 / 12
_NOTHING = "no input on which float32 holds"


@dataclass(frozen=True)
class GateResult:
    """Figure of one gate.

    Attributes:
        figure: infinite if there was no input to judge by.
        where: name of the worst case.
        left_out: inputs on which the reference itself is lost.
        accepted: the gate fails, and the user accepts that.
    """

    gate: Gate
    figure: float
    where: str
    left_out: tuple[str, ...] = ()
    accepted: bool = False

    @property
    def passed(self) -> bool:
        """True if the figure is within the threshold."""
        return self.figure <= self.gate.threshold

    def as_json(self) -> dict[str, Any]:
        """The result with its verdict, without the remedy."""
        name, unit, threshold, _ = self.gate
        return {
            "gate": name,
            "figure": self.figure,
            "unit": unit,
            "threshold": threshold,
            "passed": self.passed,
            "accepted": self.accepted,
            "where": self.where,
            "left_out": list(self.left_out),
        }

    def __str__(self) -> str:
        gate = self.gate
        return (
            f"{gate.name} is {self.figure:.2f} {gate.unit} ({self.where}); limit "
            f"{gate.threshold:g}: {gate.remedy}"
        )


def measure_gates(
    reference: Run,
    lowered: Run,
    photographs: Iterable[Photograph],
    *,
    rgb_range: float,
    upscale: int,
    size: tuple[int, int] = (48, 64),
) -> list[GateResult]:
    """Compare a lowered model with its float32 reference.

    Args:
        reference, lowered: batches (1, 3, H, W) in 0..rgb_range to (1, 3, upscale*H, upscale*W).
        size: height and width of the drawn inputs, at least `SMALLEST_SIDE_PX` each; the model's
            own if fixed.

    Returns:
        A result for each of `GATES`, then one for each input on which the reference is lost.

    Raises:
        CalibrationError: the outputs differ in shape, or the lowered output is not finite where the
            reference holds.
    """
    pair = _Pair(reference, lowered, rgb_range)
    edge = upscale * _BORDER_PX
    inside = (..., slice(edge, -edge), slice(edge, -edge))

    results = _on_photographs(pair, photographs, inside)

    errors, left_out = pair.errors(ramps(*size))
    bands = [
        (_banding(error[inside], RAMPS[name][2], upscale), name) for name, error in errors.items()
    ]
    results.append(_worst(BANDING, bands, left_out))

    errors, left_out = pair.errors(flats(*size))
    levels = [(float(np.abs(error).max()), name) for name, error in errors.items()]
    structures = [(float(e[inside].std(axis=(1, 2)).max()), name) for name, e in errors.items()]
    results.append(_worst(FLAT_LEVEL, levels, left_out))
    results.append(_worst(FLAT_STRUCTURE, structures, left_out))

    errors, left_out = pair.errors(edges(*size))
    ringing = [(float(np.abs(error).max()), name) for name, error in errors.items()]
    results.append(_worst(RINGING, ringing, left_out))
    results += [
        GateResult(LOST._replace(name=name), lost_db, "float32")
        for name, lost_db in pair.lost.items()
    ]
    return results


def compare_with_bicubic(psnr_y_db: float, photographs: Iterable[Photograph]) -> GateResult:
    """Result of `WORSE_THAN_BICUBIC`.

    Args:
        psnr_y_db: mean PSNR-Y of float32 over these photographs.
    """
    bicubic_db = []
    for photograph in photographs:
        upscale = photograph.hr.shape[0] // photograph.lr.shape[0]
        bicubic_db.append(psnr_y(enlarge(photograph.lr, upscale), photograph.hr, shave=upscale))
    mean_db = math.fsum(bicubic_db) / len(bicubic_db)
    return GateResult(WORSE_THAN_BICUBIC, mean_db - psnr_y_db, "mean of the photographs")


def _on_photographs(
    pair: _Pair, photographs: Iterable[Photograph], inside: tuple[Any, ...]
) -> list[GateResult]:
    power = np.zeros((2, 2))  # border, inside: sum of squares, number of values
    shifts = []
    for photograph in photographs:
        error = pair.error(photograph.name, photograph.lr)
        if error is None:
            continue
        inner = error[inside]
        squares = float((inner**2).sum())
        power += [
            (float((error**2).sum()) - squares, error.size - inner.size),
            (squares, inner.size),
        ]
        shifts += [
            (abs(float(mean)), f"{colour} of {photograph.name}")
            for colour, mean in zip(("red", "green", "blue"), error.mean(axis=(1, 2)), strict=True)
        ]
    borders = []
    if shifts:
        at_border, within = power[:, 0] / power[:, 1] + _ROUNDING_POWER
        borders = [(10 * math.log10(at_border / within), "the photographs")]
    left_out = tuple(pair.lost)
    return [_worst(BORDER, borders, left_out), _worst(SHIFT, shifts, left_out)]


def _worst(
    gate: Gate, figures: Sequence[tuple[float, str]], left_out: tuple[str, ...]
) -> GateResult:
    figure, where = max(figures, default=(math.inf, _NOTHING))
    return GateResult(gate, figure, where, left_out)


def _banding(error: Levels, axis: int, upscale: int) -> float:
    """Banding of `error` (3, H, W) on a ramp along `axis` of the image.

    The error is averaged over each input pixel first, since a pattern that repeats from pixel to
    pixel is not banding.
    """
    profile = error.mean(axis=2 - axis).reshape(3, -1, upscale).mean(axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(profile, _BAND_PX, axis=1)
    return float(np.ptp(windows, axis=2).max())


@dataclass(frozen=True)
class _Pair:
    """The reference and the lowered model, run on the same images (H, W, 3).

    Attributes:
        lost: loss in dB on each image so far on which the reference is lost, by name.
    """

    reference: Run
    lowered: Run
    rgb_range: float
    lost: dict[str, float] = field(default_factory=dict)

    def error(self, name: str, image: ImageArray) -> Levels | None:
        """Displayed levels of the lowered model minus those of the reference, (3, H, W).

        None if the reference is lost.
        """
        lr = batch_from_image(image, self.rgb_range)
        expected = self.reference(lr)
        lost_db = resemblance_lost_db(expected, image, self.rgb_range)
        if lost_db > LARGEST_LOSS_DB:
            self.lost[name] = lost_db
            return None
        lowered = self.lowered(lr)
        if lowered.shape != expected.shape:
            raise CalibrationError(
                f"{name}: expected an output {expected.shape} as of the reference, got "
                f"{lowered.shape} of the lowered model"
            )
        if not np.isfinite(lowered).all():
            raise CalibrationError(f"{name}: the output of the lowered model is not finite")
        return shown_levels(lowered, self.rgb_range) - shown_levels(expected, self.rgb_range)

    def errors(self, images: dict[str, ImageArray]) -> tuple[dict[str, Levels], tuple[str, ...]]:
        """Errors by name, and the names of the images on which the reference is lost."""
        found = {name: self.error(name, image) for name, image in images.items()}
        errors = {name: error for name, error in found.items() if error is not None}
        return errors, tuple(name for name in found if name not in errors)


def resemblance_lost_db(sr: Batch, image: ImageArray, rgb_range: float) -> float:
    """By how many dB bicubic interpolation resembles an image (H, W, 3) better than an output.

    Above `LARGEST_LOSS_DB` the output (1, 3, r*H, r*W) is lost. Infinite if it is not finite.
    """
    if not np.isfinite(sr).all():
        return math.inf
    return -resemblance_margin(image_from_batch(sr, rgb_range), image)


def shown_levels(sr: Batch, rgb_range: float) -> Levels:
    """Convert an output (1, 3, H, W) to 0..255, clipped and not rounded, (3, H, W)."""
    levels: Levels = np.clip(sr[0].astype(np.float64) * (255 / rgb_range), 0, 255)
    return levels
