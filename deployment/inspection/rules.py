"""Rules for what will cost quality or memory in deployment, with the remedy in this toolkit."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from adadm.calibration.ranges.float16_ranges import LARGEST_SAFE
from adadm.deployment.inspection.structure import NEAR_ZERO
from adadm.export.passes.shift_trunk import LARGEST_CENTER_TO_STD
from adadm.runtime.images.metrics import LARGEST_LOSS_DB


class Rule(NamedTuple):
    """A figure that causes problems beyond `threshold`.

    Attributes:
        name: name of the problem.
        figure: healthy range of the figure, with a placeholder for the threshold.
        threshold: limit; NaN if any figure is a problem.
        advice: remedy, with the option of this toolkit for it.
    """

    name: str
    severity: Literal["warning", "note"]
    figure: str
    threshold: float
    advice: str

    @property
    def expected(self) -> str:
        """Healthy range of the figure."""
        return self.figure.format(self.threshold)


GUESSED = Rule(
    "guessed hyper-parameter",
    "warning",
    "a value from the file or from a flag",
    math.nan,
    "no tensor shows it, and a wrong value gives another network without an error: give it by its "
    "flag (such as --res-scale 0.1), here and to adadm export and adadm quantize",
)

FALLING = Rule(
    "factor that does not follow the deviation",
    "warning",
    "w above {:g}",
    0.0,
    "continue the training: with w = 0 the factor is constant, below 0 it falls as the deviation "
    "rises. Check it with adadm export --factors, and on flat images: for a constant trunk PyTorch "
    "gives NaN or infinity, and the exported operator the factor 0",
)
"""The paper's modulator restores the deviation that a normalization removed, which is w = 1."""

LARGE_FACTOR = Rule(
    "factor near the end of float16",
    "warning",
    "factor at most {:g}",
    LARGEST_SAFE,
    "adadm quantize keeps its product in float32; if that costs too much, deploy the float32 model "
    "of adadm export, which holds factors up to exp(80)",
)
"""A quarter of 65504: the calibration's margin, since other photographs have larger deviations."""

NEVER_UPDATED = Rule(
    "normalization whose statistics were never updated",
    "warning",
    "running means and variances other than the initial 0 and 1, by more than {:g}",
    0.0,
    "the network does not compute what it computed in training: run it in training mode on "
    "training data, so that the statistics are updated, and save it again",
)

INITIAL = Rule(
    "modulator at its initial value",
    "note",
    "w and b other than the initial 1 and 0, by more than {:g}",
    0.0,
    "check that the optimizer of the training had phi among its parameters, and that the file was "
    "saved after the training",
)

LITTLE_HEADROOM = Rule(
    "results fall apart a little above the contrast of photographs",
    "warning",
    "photographs with at least {:g} times their contrast still enlarged",
    2.0,
    "limit the factors, with --limit auto or a lower --limit, or train on with drawn pictures "
    "(scripts/train.py --drawn 0.25)",
)
"""Photographs have half the deviation of black on white, the highest contrast of an image."""

DIVERGING = Rule(
    "drawn picture that is lost",
    "warning",
    "result, reduced again, at least {:+g} dB nearer to its input than bicubic's",
    -LARGEST_LOSS_DB,
    LITTLE_HEADROOM.advice,
)

SHIFTED_FAR = Rule(
    "shift far above the deviation",
    "note",
    "|t / a| at most {:g} times the std of the trunk",
    8.0,
    "the folded trunk carries the shift, which costs float16 digits: adadm quantize --precision "
    "fp16 measures the loss and refuses above --budget-db; adadm export computes in float32",
)
"""8 takes up to 3 of the 11 significant bits of float16 and leaves 8, as many as an image has.
Measured on EDSR x2 with shifts in a quarter of the channels: 80 dB to float32 without, 76 at 4
times the std, 71 at 8, 67 at 15."""

KEPT = Rule(
    "normalization that cannot be folded",
    "note",
    "|t / a| at most {:g} times the std of the trunk",
    LARGEST_CENTER_TO_STD,
    "adadm export stays exact, at the cost of one multiply-add a value in the block; to remove it, "
    "continue the training with gamma and beta of the channel with the small gamma at 0",
)
"""The limit of the fold itself: 4 of the 24 bits of float32."""

NEAR_ZERO_GAMMAS = Rule(
    "channels with a gamma near zero",
    "note",
    "|gamma| above {:g} of the median",
    NEAR_ZERO,
    "they cost as much as others but have nearly no effect: train a narrower network "
    "(scripts/train.py --set features=N), or accept the cost",
)

SILENT = Rule(
    "channels of the trunk that nothing moves",
    "note",
    "std above {:g} of the median channel's, on some photograph",
    0.01,
    NEAR_ZERO_GAMMAS.advice,
)
"""40 dB below a typical channel, on the photograph where it is largest."""

MOVING = Rule(
    "factor that moves much with content",
    "note",
    "largest at most {:g} times the least, over the photographs",
    4.0,
    "calibrate on more and more varied photographs (adadm quantize --images PATH... --photographs "
    "64), and let tiles share their statistics (--stats external)",
)
"""One INT8 scale must hold the result of the largest factor: a ratio of 4 costs 2 of its 7 bits
where the factor is least. The bundled networks reach 2.5."""

OVERFLOW = Rule(
    "float16 overflow is near",
    "warning",
    "65504 at least {:g} times the largest magnitude",
    4.0,
    "adadm quantize multiplies a trunk that is too large by a power of two, exactly, and keeps "
    "any other tensor in float32",
)
"""The calibration's margin: other photographs have larger values."""

UNDERFLOW = Rule(
    "typical values below the normal numbers of float16",
    "note",
    "root mean square at least {:g} times 2^-14",
    1.0,
    "adadm quantize --precision fp16 measures the loss and refuses above --budget-db; "
    "adadm export computes in float32",
)
"""Below 2^-14 each halving costs one of the 11 bits."""

FEW_BITS = Rule(
    "few INT8 levels for typical values",
    "warning",
    "std of a convolution's input at least 2^{:g} steps of its scale",
    1.0,
    "adadm quantize --precision int8 keeps it in higher precision if --budget-db requires it; "
    "--sensitivity prints its loss",
)
"""The rounding has a std of 0.29 steps, 17 dB below an input of 2. The bundled networks have 2.2
bits and more."""

RULES = (
    *(GUESSED, NEVER_UPDATED, LITTLE_HEADROOM, DIVERGING, FALLING, LARGE_FACTOR, INITIAL),
    *(SHIFTED_FAR, KEPT, NEAR_ZERO_GAMMAS),
    *(SILENT, MOVING, OVERFLOW, UNDERFLOW, FEW_BITS),
)
