"""Weights that compensate for rounding, from statistics of a convolution's inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.calibration.passes.quantize_convolutions import LARGEST_LEVEL
from adadm.export.graph.channels import bias_of, set_bias, weight_of
from adadm.export.graph.rewriting import (
    constant_values,
    input_of,
    label,
    producer_of,
    replace_initializer,
)

Array = npt.NDArray[np.float64]

PATCHES = 1000
"""Number of patches of each convolution's input, from each photograph."""
_DAMPING = 0.01


class Moments:
    """Means and covariances of patches (K,), K = C * rows * columns, and of rounded patches.

    Args:
        size: C, rows and columns.
        scale: step of the rounding.
    """

    def __init__(self, size: tuple[int, int, int], scale: float) -> None:
        self.size, self.scale, self.count = size, scale, 0
        length = int(np.prod(size))
        self._sums = np.zeros((2, length))
        self._products = np.zeros((2, length, length))

    def add(self, values: npt.NDArray[np.float32], chance: np.random.Generator) -> None:
        """Add random patches inside an input (C, H, W)."""
        _, rows, columns = self.size
        _, height, width = values.shape
        windows = np.lib.stride_tricks.sliding_window_view(values, (rows, columns), axis=(1, 2))
        y = chance.integers(0, height - rows + 1, PATCHES)
        x = chance.integers(0, width - columns + 1, PATCHES)
        whole = windows[:, y, x].transpose(1, 0, 2, 3).reshape(PATCHES, -1).astype(np.float64)
        levels = np.rint(whole / self.scale).clip(-LARGEST_LEVEL - 1, LARGEST_LEVEL)
        rounded = levels * self.scale
        self._sums += whole.sum(axis=0), rounded.sum(axis=0)
        self._products += whole.T @ rounded, rounded.T @ rounded
        self.count += PATCHES

    @property
    def means(self) -> tuple[Array, Array]:
        """Means of the patches, and of the rounded patches."""
        whole, rounded = self._sums / self.count
        return whole, rounded

    @property
    def covariances(self) -> tuple[Array, Array]:
        """Covariances of the patches with the rounded ones, and of the rounded ones."""
        (whole, rounded), products = self.means, self._products / self.count
        return products[0] - np.outer(whole, rounded), products[1] - np.outer(rounded, rounded)


def round_with_feedback(weight: Array, covariance: Array, scale: Array) -> Array:
    """Levels (M, K), where later columns compensate for the error of each column.

    Columns of large variance come first (Frantar et al., "GPTQ", 2023).
    """
    order = np.argsort(-np.diag(covariance), kind="stable")
    inverse = np.linalg.inv(_damped(covariance)[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    left, levels = weight[:, order], np.zeros_like(weight)
    for index, column in enumerate(order):
        nearest = np.rint(left[:, index] / scale)
        levels[:, column] = np.clip(nearest, -LARGEST_LEVEL, LARGEST_LEVEL)
        error = (left[:, index] - levels[:, column] * scale) / upper[index, index]
        left[:, index:] -= np.outer(error, upper[index, index:])
    return levels


def least_squares(weight: Array, moments: Moments) -> Array:
    """Weights (M, K) with the least squared error on rounded inputs."""
    crossed, rounded = moments.covariances
    inverse = np.linalg.inv(_damped(rounded))
    return weight + weight @ (crossed - rounded) @ inverse


def reconstruct(
    quantized: ir.Model,
    unquantized: Mapping[str, Array],
    moments: Mapping[str, Moments],
    *,
    fit: bool,
) -> None:
    """Round the weights of a quantized graph anew and correct its biases, in place.

    Args:
        unquantized: weights (M, C, ...) before rounding, by name of the convolution.
        moments: moments by name of the convolution, whose bias is not corrected yet.
        fit: replace the given weights by the least-squares weights for rounded inputs.
    """
    for node in list(quantized.graph):
        if node.op_type != "Conv" or label(node) not in moments:
            continue
        inputs, weight = moments[label(node)], unquantized[label(node)]
        dequantize = producer_of(input_of(node, 1))  # QuantizeConvolutions put it there
        scale = constant_values(dequantize.inputs[1])
        flat = weight.reshape(len(weight), -1)
        wanted = least_squares(flat, inputs) if fit else flat
        levels = round_with_feedback(wanted, inputs.covariances[1], scale)
        mean, rounded_mean = inputs.means
        set_bias(node, bias_of(node) + flat @ mean - (levels * scale[:, None]) @ rounded_mean)
        name = f"{label(node)}.weight.levels"
        shaped = levels.reshape(weight.shape)
        replace_initializer(dequantize, 0, shaped, name=name, dtype=ir.DataType.INT8)


def weights(model: ir.Model, names: Mapping[str, object]) -> dict[str, Array]:
    """Weights of the named convolutions."""
    return {
        label(node): weight_of(node)
        for node in model.graph
        if node.op_type == "Conv" and label(node) in names
    }


def _damped(covariance: Array) -> Array:
    damped: Array = covariance.copy()
    damped[np.diag_indices_from(damped)] += _DAMPING * np.diag(covariance).mean()
    return damped
