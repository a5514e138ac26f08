"""The compared ranges, reconstructions and equalizers, each as a lowered form of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.calibration.passes import EqualizeChannels
from adadm.calibration.passes.quantize_convolutions import LARGEST_LEVEL, half_scale
from adadm.calibration.quality.photographs import Photograph
from adadm.calibration.ranges import int8_ranges as int8
from adadm.calibration.ranges.int8_ranges import ConvolutionRange
from adadm.calibration.ranges.tensor_statistics import TensorStatistics
from studies.quantization.networks import Net, inputs_of, observed
from studies.quantization.ranges import Histogram, entropy, mean_square, percentile
from studies.quantization.reconstruction import Moments, reconstruct, weights

Array = npt.NDArray[np.float64]
Ranges = Mapping[str, ConvolutionRange]
Variants = Iterator[tuple[str, ir.Model]]

SHIPPED = "**shipped**"
SHARES = (0.5, 0.7, 1.0)
RANGES: dict[str, Callable[[Histogram], float]] = {
    "largest of the photographs": lambda histogram: histogram.largest,
    "99.999 %": lambda histogram: percentile(histogram, 99.999),
    "99.99 %": lambda histogram: percentile(histogram, 99.99),
    "entropy": entropy,
    "mean square": mean_square,
}


def ranges(net: Net, shipped: Ranges, images: Sequence[Photograph]) -> Variants:
    """Forms by range method, with the shipped equalizers and bias correction."""
    equalized = _equalized(net, shipped)
    read = inputs_of(equalized, shipped)
    histograms = {name: Histogram(shipped[name].scale * LARGEST_LEVEL) for name in read}
    for values in observed(equalized, set(read.values()), images, net.rgb_range):
        for name, histogram in histograms.items():
            histogram.add(values[read[name]])
    for title, method in RANGES.items():
        scales = {name: float(half_scale(np.array(method(h)))) for name, h in histograms.items()}
        yield title, net.quantized({n: replace(r, scale=scales[n]) for n, r in shipped.items()})


def reconstructions(net: Net, shipped: Ranges, images: Sequence[Photograph]) -> Variants:
    """Forms by compensation of the rounding, with the shipped ranges."""
    equalized = _equalized(net, shipped)
    read, unquantized = inputs_of(equalized, shipped), weights(equalized, shipped)
    moments = {n: Moments(w.shape[1:], shipped[n].scale) for n, w in unquantized.items()}
    chance = np.random.default_rng(0)
    for values in observed(equalized, set(read.values()), images, net.rgb_range):
        for name, inputs in moments.items():
            inputs.add(values[read[name]], chance)
    uncorrected = {name: replace(r, mean=np.zeros_like(r.mean)) for name, r in shipped.items()}
    yield "none", net.quantized(uncorrected)
    for title, fit in (("error feedback", False), ("least squares, then error feedback", True)):
        model = net.quantized(uncorrected)
        reconstruct(model, unquantized, moments, fit=fit)
        yield title, model


def equalizers(net: Net, shipped: Ranges, statistics: Mapping[str, TensorStatistics]) -> Variants:
    """Forms by choice of channel factors, with the shipped ranges and correction."""
    ones = {name: np.ones_like(factors) for name, factors in net.affine.items()}
    after_norm = {name for name, factors in net.affine.items() if (factors != 1).any()}
    yield "none", net.quantized(_with_equalizers(net, shipped, statistics, ones))
    for title, factors in (("none after norm1", ones), ("affine form of norm1", net.affine)):
        others = {name: factors[name] for name in shipped if name in after_norm}
        yield title, net.quantized(_with_equalizers(net, shipped, statistics, others))
    for share in SHARES:
        with patch.object(int8, "_SHARE_OF_ACTIVATIONS", share):
            yield f"share {share:g}", net.quantized(net.ranges(statistics))


def _equalized(net: Net, shipped: Ranges) -> ir.Model:
    model = net.model.clone()
    EqualizeChannels({name: convolution.equalizer for name, convolution in shipped.items()})(model)
    return model


def _with_equalizers(
    net: Net,
    shipped: Ranges,
    statistics: Mapping[str, TensorStatistics],
    equalizers: Mapping[str, Array],
) -> dict[str, ConvolutionRange]:
    """The shipped ranges, except for convolutions with another equalizer."""
    changed = dict(shipped)
    for name, value in inputs_of(net.model, shipped).items():
        if name in equalizers:
            factor, before = equalizers[name], statistics[value]
            scale = float(half_scale((before.largest * factor).max()))
            changed[name] = ConvolutionRange(factor, scale, before.mean * factor)
    return changed
