"""AdaDM's modulator in tiles of an image: it reads its statistic and returns moments.

All tiles of an image share one statistic. These operators of the domain `adadm` let a model read
the std of each trunk as an input, and return the contribution of a tile to it.

    AdaDMModulateExternal(x, r, std; weight, bias)               -> y = x + r * factor
    AdaDMModulateShiftedExternal(x, r, delta, std; weight, bias) -> y = x + delta + r * factor
    AdaDMModulateExternalLimited, AdaDMModulateShiftedExternalLimited: with a third attribute, limit
    AdaDMMoments(x, inside)                                      -> moments of x
    AdaDMMomentsShifted(x, center, inside)                       -> moments of x - center
    AdaDMStandardDeviation(moments, known)                       -> std

    factor  = exp(min(weight * ln(std) + bias, 80)) where std > 0, else 0; when limited, with
              min(std, limit) instead of std
    moments = (count, mean, sum of squared deviations from that mean) over all channels of the
              pixels inside
    std     = known where known > 0, else sqrt(squares / (count - 1)) of the moments

x, r, y: (N, C, H, W); center, delta: (1, C, 1, 1); std, known: (N, 1, 1, 1); inside: (N, 1, H, W),
1 for a pixel of the tile, 0 in the halo around it; moments: (N, 1, 3). std, known, inside and
moments are always float32.

Numerics: those of `adadm.export.operators.modulator`. Moments of tiles are pooled in float64 by
`adadm.runtime.upscaling.shared_std`; squares of deviations from the tile's own mean keep the digits
that bare sums of squares would lose (3e-4 of the std where the mean is 100 times as large).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import onnx_ir as ir

from adadm.export.operators.domain import function_from_text, reduction
from adadm.export.operators.modulator import (
    SIGNATURES,
    Signature,
    amplification,
    deviation,
    standard_deviation,
    sum_of_squares,
)

MOMENTS = "AdaDMMoments"
MOMENTS_SHIFTED = "AdaDMMomentsShifted"
STANDARD_DEVIATION = "AdaDMStandardDeviation"


def external_name(signature: Signature) -> str:
    """Name of the operator that reads the std of a modulator as an input."""
    return f"AdaDMModulate{'Shifted' * signature.shifted}External{'Limited' * signature.limited}"


def _modulate(signature: Signature, opset: int) -> ir.Function:
    shifted = signature.shifted
    body = f"""
            {amplification("factor", limited=signature.limited)}
            modulated = Mul (r, factor)
            {"moved = Add (x, delta)" if shifted else ""}
            y = Add ({"moved" if shifted else "x"}, modulated)"""
    inputs = "x, r, delta, std" if shifted else "x, r, std"
    attributes = ", ".join(signature.attributes)
    text = f"{external_name(signature)} <{attributes}> ({inputs}) => (y)"
    return function_from_text(text, body, opset)


def _moments(opset: int, *, shifted: bool) -> ir.Function:
    signature = f"{MOMENTS_SHIFTED} (x, center, inside)" if shifted else f"{MOMENTS} (x, inside)"
    body = f"""
            shape = Shape (x)
            first = Constant <value_ints = [1]> ()
            second = Constant <value_ints = [2]> ()
            channel_shape = Slice (shape, first, second)
            channels = Cast <to = 1> (channel_shape)
            {reduction("ReduceSum", "pixels", "inside", (1, 2, 3), opset=opset)}
            counted = Mul (pixels, channels)
            least = Constant <value_float = 1.0> ()
            count = Max (counted, least)

            wide_x = Cast <to = 1> (x)
            x_inside = Mul (wide_x, inside)
            {reduction("ReduceSum", "sum_of_planes", "x_inside", (2, 3), opset=opset)}
            {reduction("ReduceSum", "sum_of_x", "sum_of_planes", (1,), opset=opset)}
            {"mean_of_x" if shifted else "mean"} = Div (sum_of_x, count)
            {deviation(opset, shifted=shifted)}
            deviation_inside = Mul (deviation, inside)
            {sum_of_squares("squares", "deviation_inside", opset)}

            side_by_side = Concat <axis = 2> (counted, mean, squares)
            last = Constant <value_ints = [3]> ()
            moments = Squeeze (side_by_side, last)"""
    return function_from_text(f"{signature} => (moments)", body, opset)


def _standard_deviation(opset: int) -> ir.Function:
    body = f"""
            zero = Constant <value_float = 0.0> ()
            start = Constant <value_ints = [0]> ()
            first = Constant <value_ints = [1]> ()
            second = Constant <value_ints = [2]> ()
            third = Constant <value_ints = [3]> ()
            wide = Unsqueeze (moments, third)
            count = Slice (wide, start, first, second)
            squares = Slice (wide, second, third, second)
            {standard_deviation()}
            is_known = Greater (known, zero)
            chosen = Where (is_known, known, std)"""
    signature = f"{STANDARD_DEVIATION} (moments, known) => (chosen)"
    return function_from_text(signature, body, opset)


FUNCTIONS: dict[str, Callable[[int], ir.Function]] = {
    **{external_name(each): functools.partial(_modulate, each) for each in SIGNATURES.values()},
    MOMENTS: functools.partial(_moments, shifted=False),
    MOMENTS_SHIFTED: functools.partial(_moments, shifted=True),
    STANDARD_DEVIATION: _standard_deviation,
}
