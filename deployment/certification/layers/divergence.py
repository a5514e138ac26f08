"""Find the first layer that is wrong by its own error."""

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
    """Errors of one layer, in the units of the reference.

    All but `snr_db` are measured on the reference's values of its inputs, so that only its own
    error counts. Decibels are signal over error; infinite if equal.

    Attributes:
        name: name of the node, such as `body.3.conv2`, or of the modulator, such as `body.3.phi`;
            `sr` for the image.
        kind: Conv, AdaDMModulate, ...; Image for everything after the last convolution.
        block: index of its modulator; None for head, tail and layers between blocks.
        precision: lowest precision with which it computes: int8, fp16 or float32.
        snr_db: accumulated error: on the candidate's values of its inputs.
        isolated_db: its own error.
        parameters_db: its own error without the rounding of an INT8 input: the error of its weights
            and its bias. The next six are also measured without this rounding.
        border_db, interior_db: error in the outer two pixels of low resolution, and elsewhere.
        gain: least-squares gain of its output.
        largest_shift: largest mean error of a channel, as a share of the std of the output.
        shifted_channel: index of that channel.
        shifted_levels: mean error of that channel in grey levels of 255, if the output becomes
            pixels; else None.
        range_use: largest magnitude at its INT8 input, as a multiple of its range; clipped above 1.
            None without an INT8 input.
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

    Certainty of the layer:

    - Wrong weights, INT8 scale of weights, bias, or parameters of a modulator: it is this layer,
      whatever comes before and after. If it is left out, the next layer of its block is named.
    - A normalization folded without regard to padding: the convolution that reads it is named; the
      location of the error at the border is measured.
    - An INT8 range that is too small: the convolution that reads through it is named. Photographs
      fill the ranges of healthy layers to 0.7 to 1.6, so the limit is 1.6 times the median of the
      model's layers on the same photographs. This misses 2 in 100 ranges of half their size.
    - Errors smaller than the limits are not found. The limits leave a margin of at least 6 dB to
      the worst healthy layers, and a factor of two for means.

    Attributes:
        where: name of the layer.
        block: index of its modulator, or None.
        text: description of the error and its likely cause, for people.
    """

    where: str
    block: int | None
    text: str


class _Limits(NamedTuple):
    own_db: float
    shift: float


_LIMITS = {"float32": _Limits(90.0, 1e-3), "fp16": _Limits(45.0, 0.01), "int8": _Limits(25.0, 0.1)}
"""Limits by precision. Healthy layers of the bundled networks, on 24 photographs: at least 123 dB
in another form of the float32 export; 56 dB in FP16, and shifts up to 0.004; 31 dB in INT8 without
the rounding of the input, and shifts up to 0.04."""
_ROUNDED_INPUT_DB = 10.0
"""Limit for an INT8 layer with a rounded input; the same healthy layers had at least 17 dB."""
_SHIFTED_LEVELS = 0.6
"""Limit for a channel that becomes pixels; the same healthy layers had up to 0.31."""
_CUT_OFF, _CUT_OFF_TO_USUAL = 1.3, 1.6
_OFF_GAIN, _BORDER_ALONE_DB = 0.2, 10.0


def first_divergence(layers: Sequence[LayerResult]) -> Divergence | None:
    """Find the first layer that misses a limit; None if all are healthy.

    In a lowered model float32 layers have the limits of FP16, since their inputs may be rounded.
    """
    lowered = any(layer.precision != "float32" for layer in layers)
    for layer in layers:
        precision = "fp16" if lowered and layer.precision == "float32" else layer.precision
        if (text := _problem(layer, _LIMITS[precision], layers)) is not None:
            name = f"{layer.name} ({layer.kind}, {layer.precision})"
            return Divergence(layer.name, layer.block, f"{name} {text}")
    return None


def _problem(layer: LayerResult, limits: _Limits, layers: Sequence[LayerResult]) -> str | None:
    # The rounding of joined convolutions cannot be left out.
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
            f"reads up to {use:.2f} times its INT8 range, {statistics.median(uses):.2f} is usual: "
            "the rest is clipped; look at the scale of its input"
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
        return "values are infinite or NaN, or vary where they should be constant"
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
    """Name the parameters of a layer that may be wrong."""
    if layer.kind == MODULATOR:
        return "its weight, its bias and its center"
    return of_convolution if layer.kind == CONV else "its constants"
