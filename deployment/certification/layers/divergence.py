"""The first layer that is wrong, by what it adds of its own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adadm.deployment.certification.layers.graph import CONV, MODULATOR
from adadm.runtime.json_format import Figure


@dataclass(frozen=True)
class LayerResult:
    """What one layer makes of its inputs, in the units of the reference.

    All but `snr_db` is measured on what the reference computes as its inputs, so that only its own
    error counts. Decibels are signal over error; infinite when equal.

    Attributes:
        name: of the node, such as `body.3.conv2`, or of the modulator `body.3.phi`; `sr` the image.
        kind: Conv, AdaDMModulate, ...; Image for what comes after the last convolution.
        block: the index of the modulator that it belongs to; None for head, tail and what lies
            between blocks.
        precision: the lowest with which it computes: int8, fp16 or float32.
        snr_db: on what the candidate computes as its inputs: the error that has accumulated.
        isolated_db: its own error.
        parameters_db: the same with an INT8 input that is not rounded: the error of its weights and
            its bias. The next six are measured so too.
        border_db, interior_db: the error in the outer two pixels of low resolution, and elsewhere.
        gain: by what its output is multiplied, least squares.
        largest_shift: mean error of the channel where it is largest, as a share of the std of the
            output.
        shifted_channel: that channel.
        shifted_levels: its mean error in grey levels of 255, where the image is made of the output;
            else None.
        range_use: the largest magnitude that arrives at its INT8 input, over what that holds; None
            without. Above 1 it is cut off.
    """

    name: str
    kind: str
    block: int | None
    precision: str
    snr_db: Figure
    isolated_db: Figure
    parameters_db: Figure
    border_db: Figure
    interior_db: Figure
    gain: Figure
    largest_shift: Figure
    shifted_channel: int
    shifted_levels: float | None
    range_use: float | None


@dataclass(frozen=True)
class Divergence:
    """The first layer, in graph order, that is wrong by itself.

    How sure the place is:

    - Weights, their INT8 scale, a bias, the parameters of a modulator: it is this layer, whatever
      comes before and after. Of one that is left out, the next layer of its block is named.
    - A normalization folded without regard to padding: the convolution that reads it; that the
      error is at the border is measured.
    - An INT8 range that is too small: the convolution that reads through it. Photographs fill the
      ranges of healthy layers to 0.7 to 1.6, so what counts is 1.6 times what the model's other
      layers have on the same ones. Of ranges of half their size 2 in 100 are not seen so.
    - Errors that are smaller than the limits are not seen. The limits leave 6 dB and more to the
      worst healthy layers, and of a mean twice as much.

    Attributes:
        where: the name of the layer.
        block: as `LayerResult` has it.
        text: what is wrong and where to look, for people.
    """

    where: str
    block: int | None
    text: str


class _Limits(NamedTuple):
    own_db: float
    shift: float


_LIMITS = {"float32": _Limits(90.0, 1e-3), "fp16": _Limits(45.0, 0.01), "int8": _Limits(25.0, 0.1)}
"""Healthy layers of the bundled networks, on 24 photographs: at least 123 dB in another form of the
float32 export; 56 dB in FP16, and shifts up to 0.004; 31 dB in INT8 without the rounding of the
input, and shifts up to 0.04."""
_ROUNDED_INPUT_DB = 10.0
"""Of an INT8 layer, its input rounded; the same had at least 17 dB."""
_SHIFTED_LEVELS = 0.6
"""Of a channel that becomes pixels; the same had up to 0.31."""
_CUT_OFF, _CUT_OFF_TO_USUAL = 1.3, 1.6
_OFF_GAIN, _BORDER_ALONE_DB = 0.2, 10.0


def first_divergence(layers: Sequence[LayerResult]) -> Divergence | None:
    """The first of the layers that misses a limit; None where all are healthy.

    In a lowered model float32 layers have the limits of FP16: what they read may be rounded to it.
    """
    lowered = any(layer.precision != "float32" for layer in layers)
    for layer in layers:
        precision = "fp16" if lowered and layer.precision == "float32" else layer.precision
        if (text := _problem(layer, _LIMITS[precision], layers)) is not None:
            name = f"{layer.name} ({layer.kind}, {layer.precision})"
            return Divergence(layer.name, layer.block, f"{name} {text}")
    return None


def _problem(layer: LayerResult, limits: _Limits, layers: Sequence[LayerResult]) -> str | None:
    # Rounding that cannot be taken out, since the convolution is one of several that were joined.
    joined = layer.precision == "int8" and layer.range_use is None
    own_db = min(layer.parameters_db, layer.border_db, layer.interior_db)
    levels = layer.shifted_levels or 0.0
    if own_db < (_ROUNDED_INPUT_DB if joined else limits.own_db):
        return f"has an SNR of {own_db:.1f} dB by itself{_usual(layer, layers)}: {_cause(layer)}"
    if layer.largest_shift > limits.shift or levels > _SHIFTED_LEVELS:
        return f"is off on average: {_shift(layer)}"
    uses = [other.range_use for other in layers if other.range_use is not None]
    use = layer.range_use or 0.0
    if use > max(_CUT_OFF, _CUT_OFF_TO_USUAL * statistics.median(uses or [1.0])):
        return (
            f"reads up to {use:.2f} times what its INT8 range holds, {statistics.median(uses):.2f} "
            "is usual: the rest is cut off; look at the scale of its input"
        )
    if layer.isolated_db < _ROUNDED_INPUT_DB and use:
        return (
            f"has an SNR of {layer.isolated_db:.1f} dB when its input is rounded to INT8, "
            f"{layer.parameters_db:.1f} dB when not: look at the scale of its input"
        )
    return None


def _usual(layer: LayerResult, layers: Sequence[LayerResult]) -> str:
    like = [o.parameters_db for o in layers if o is not layer and o.precision == layer.precision]
    if not like:
        return ""
    usual = statistics.median(like)
    return ", where others have no error" if usual == math.inf else f", {usual:.1f} dB is usual"


def _cause(layer: LayerResult) -> str:
    if math.isinf(layer.parameters_db):
        return "values are infinite or no numbers, or vary where they should not"
    if layer.interior_db - layer.border_db > _BORDER_ALONE_DB:
        return (
            f"the error is at the border ({layer.border_db:.1f} dB there, {layer.interior_db:.1f} "
            "dB inside); look at its padding, and at how a normalization before it was folded"
        )
    if abs(layer.gain - 1) > _OFF_GAIN:
        scale = _parameters(layer, "the scale of its weights")
        return f"it returns {layer.gain:.2f} times what it should; look at {scale}"
    if layer.largest_shift > _LIMITS[layer.precision].shift:
        return _shift(layer)
    return f"look at {_parameters(layer, 'its weights')}"


def _shift(layer: LayerResult) -> str:
    levels = layer.shifted_levels
    shown = "" if levels is None else f", {levels:.2f} grey levels"
    return (
        f"the mean of channel {layer.shifted_channel} is off by {layer.largest_shift:.2g} times "
        f"the std of its output{shown}; look at {_parameters(layer, 'its bias')}"
    )


def _parameters(layer: LayerResult, of_convolution: str) -> str:
    """What may be wrong in a layer."""
    if layer.kind == MODULATOR:
        return "its weight, its bias and its center"
    return of_convolution if layer.kind == CONV else "its constants"
