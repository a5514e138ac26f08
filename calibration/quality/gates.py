"""Limits of visible artefacts that a lowered model adds and PSNR does not show.

A gate is one number: the difference between a lowered model and its float32 reference, in grey
levels of 255 as displayed: clipped to black and white, before rounding. The photographs are the
first of the calibration's; the other inputs are drawn. A case where the reference itself is far
from its input is left out, and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adadm.export.proof.drawn_pictures import RAMPS, edges, flats, ramps
from adadm.calibration.quality.photographs import Photograph
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import Batch, ImageArray, batch_from_image

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

_BORDER_PX, _BAND_PX = 4, 8
_ROUNDING_POWER = 1 / 12
_DIVERGED_LEVELS = 16.0  # mean difference of the reference from its input


@dataclass(frozen=True)
class GateResult:
    """Figure of one gate.

    Attributes:
        where: name of the worst case.
        left_out: cases on which the reference itself diverges.
    """

    gate: Gate
    figure: float
    where: str
    left_out: tuple[str, ...] = ()

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
            "where": self.where,
            "left_out": list(self.left_out),
        }

    def __str__(self) -> str:
        gate = self.gate
        return (
            f"{gate.name} is {self.figure:.2f} {gate.unit} ({self.where}); limit "
            f"{gate.threshold:g}: {gate.remedy}"
        )


def check_gates(results: Iterable[GateResult]) -> None:
    """Refuse a lowered model that fails a gate.

    Raises:
        CalibrationError: a gate fails; the message has its figure, limit and remedy.
    """
    if failed := [result for result in results if not result.passed]:
        listed = "".join(f"\n  {result}" for result in failed)
        raise CalibrationError(
            "the lowered model has visible artefacts; calibrate on photographs like those that it "
            f"will process, or keep more layers in higher precision:{listed}"
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
    """Compare a lowered model with its float32 reference; one result for each of `GATES`.

    Args:
        reference, lowered: batches (1, 3, H, W) in 0..rgb_range to (1, 3, upscale*H, upscale*W).
        size: height and width of the drawn inputs, at least `SMALLEST_SIDE_PX` each; the model's
            own if fixed.

    Raises:
        CalibrationError: the outputs differ in shape; the lowered output is not finite where the
            reference is; or the reference's output of a photograph is not finite.
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
    return results


def _on_photographs(
    pair: _Pair, photographs: Iterable[Photograph], inside: tuple[Any, ...]
) -> list[GateResult]:
    power = np.zeros((2, 2))  # border, inside: sum of squares, number of values
    shifts = []
    for photograph in photographs:
        error = pair.error(photograph.name, photograph.lr)
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
    at_border, within = power[:, 0] / power[:, 1] + _ROUNDING_POWER
    excess_db = 10 * math.log10(at_border / within)
    return [GateResult(BORDER, excess_db, "the photographs"), _worst(SHIFT, shifts)]


def _worst(
    gate: Gate, figures: Sequence[tuple[float, str]], left_out: tuple[str, ...] = ()
) -> GateResult:
    figure, where = max(figures, default=(0.0, "nothing to judge by"))
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
    """The reference and the lowered model, run on the same images (H, W, 3)."""

    reference: Run
    lowered: Run
    rgb_range: float

    def error(self, name: str, image: ImageArray) -> Levels:
        """Displayed levels of the lowered model minus those of the reference, (3, H, W)."""
        return self._difference(name, image, self.reference(self._batch(image)))

    def errors(self, images: dict[str, ImageArray]) -> tuple[dict[str, Levels], tuple[str, ...]]:
        """Errors by name, and the names of the images on which the reference itself diverges."""
        errors, left_out = {}, []
        for name, image in images.items():
            expected = self.reference(self._batch(image))
            if diverges(expected, image, self.rgb_range):
                left_out.append(name)
            else:
                errors[name] = self._difference(name, image, expected)
        return errors, tuple(left_out)

    def _difference(self, name: str, image: ImageArray, expected: Batch) -> Levels:
        lowered = self.lowered(self._batch(image))
        if lowered.shape != expected.shape:
            raise CalibrationError(
                f"{name}: expected an output {expected.shape} as of the reference, got "
                f"{lowered.shape} of the lowered model"
            )
        for which, sr in (("float32 reference", expected), ("lowered model", lowered)):
            if not np.isfinite(sr).all():
                raise CalibrationError(f"{name}: the output of the {which} is not finite")
        return shown_levels(lowered, self.rgb_range) - shown_levels(expected, self.rgb_range)

    def _batch(self, image: ImageArray) -> Batch:
        return batch_from_image(image, self.rgb_range)


def diverges(sr: Batch, image: ImageArray, rgb_range: float) -> bool:
    """True if an output (1, 3, r*H, r*W) is not finite, or far from its drawn input (H, W, 3)."""
    upscale = sr.shape[-1] // image.shape[1]
    enlarged = image.repeat(upscale, axis=0).repeat(upscale, axis=1).transpose(2, 0, 1)
    return not np.abs(shown_levels(sr, rgb_range) - enlarged).mean() <= _DIVERGED_LEVELS


def shown_levels(sr: Batch, rgb_range: float) -> Levels:
    """Convert an output (1, 3, H, W) to 0..255, clipped and not rounded, (3, H, W)."""
    levels: Levels = np.clip(sr[0].astype(np.float64) * (255 / rgb_range), 0, 255)
    return levels
