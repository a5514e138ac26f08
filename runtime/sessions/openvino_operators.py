"""Operators of the domain `adadm` in terms of OpenVINO's own.

Each function converts one node of the ONNX file for OpenVINO's `ConversionExtension`. The formulas
are those of the function bodies in the file (`adadm.export.operators`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from adadm.runtime.errors import require

LARGEST_EXPONENT = 80.0
LARGEST_BUCKETS = 128
SMALLEST_NORM = 5e-5


def _modulate(node: Any, *, shifted: bool, limited: bool, with_factor: bool) -> list[Any]:
    """Convert a modulator: `x + delta + r * exp(weight * ln(std(x - center)) + bias)`."""
    ops = _operators()
    x, r = node.get_input(0), node.get_input(1)
    wide = ops.convert(x, "f32")
    center = node.get_input(2) if shifted else None
    _, origin = _origin(ops, _mean(ops, wide), center)
    sizes = ops.gather(ops.shape_of(x), np.array([1, 2, 3]), np.int64(0))
    # Convert before the product: in a quantized graph, OpenVINO would mistake Convert followed by
    # Subtract for a dequantization, and the count would be wrong.
    count = ops.reduce_prod(ops.convert(sizes, "f32"), np.array([0]))
    squares = _sum(ops, ops.squared_difference(wide, origin))
    factor = _factor(ops, node, r, _std(ops, squares, count), limited=limited)
    y = _modulated(ops, x, r, factor, node.get_input(3) if shifted else None)
    return [y.output(0), factor.output(0)] if with_factor else [y.output(0)]


def _modulate_external(node: Any, *, shifted: bool, limited: bool) -> list[Any]:
    """Convert a modulator whose std is its last input."""
    ops = _operators()
    x, r = node.get_input(0), node.get_input(1)
    factor = _factor(ops, node, r, node.get_input(3 if shifted else 2), limited=limited)
    return [_modulated(ops, x, r, factor, node.get_input(2) if shifted else None).output(0)]


def _moments(node: Any, *, shifted: bool) -> list[Any]:
    """Convert AdaDMMoments: count, mean and sum of squared deviations inside, (N, 1, 3)."""
    ops = _operators()
    x, inside = node.get_input(0), node.get_input(2 if shifted else 1)
    wide = ops.convert(x, "f32")
    channels = ops.convert(ops.gather(ops.shape_of(x), np.array([1]), np.int64(0)), "f32")
    count = ops.multiply(ops.reduce_sum(inside, np.array([1, 2, 3]), keep_dims=True), channels)
    least = ops.maximum(count, np.float32(1))
    planes = ops.reduce_sum(ops.multiply(wide, inside), np.array([2, 3]), keep_dims=True)
    mean_of_x = ops.divide(ops.reduce_sum(planes, np.array([1]), keep_dims=True), least)
    mean, origin = _origin(ops, mean_of_x, node.get_input(1) if shifted else None)
    squares = _sum(ops, ops.multiply(ops.squared_difference(wide, origin), inside))
    return [ops.squeeze(ops.concat([count, mean, squares], axis=2), np.array([3])).output(0)]


def _standard_deviation(node: Any) -> list[Any]:
    """Convert AdaDMStandardDeviation: known std if positive, else the moments', (N, 1, 1, 1)."""
    ops = _operators()
    known = node.get_input(1)
    wide = ops.unsqueeze(node.get_input(0), np.array([3]))
    count, squares = (ops.gather(wide, np.array([index]), np.int64(2)) for index in (0, 2))
    std = _std(ops, squares, count)
    return [ops.select(ops.greater(known, np.float32(0)), known, std).output(0)]


def _origin(ops: Any, mean_of_x: Any, center: Any) -> tuple[Any, Any]:
    """Mean of `x`, or of `x - center`; and the value from which `x` deviates."""
    if center is None:
        return mean_of_x, mean_of_x
    center = ops.convert(center, "f32")
    mean = ops.subtract(mean_of_x, _mean(ops, center))
    return mean, ops.add(center, mean)


def _sum(ops: Any, squares: Any) -> Any:
    """Sum over one image, axis by axis."""
    for axis in (3, 2, 1):
        squares = ops.reduce_sum(squares, np.array([axis]), keep_dims=True)
    return squares


def _std(ops: Any, squares: Any, count: Any) -> Any:
    one = np.float32(1)
    degrees = ops.maximum(ops.subtract(count, one), one)
    return ops.sqrt(ops.divide(squares, degrees))


def _factor(ops: Any, node: Any, r: Any, std: Any, *, limited: bool) -> Any:
    """`exp(min(weight * ln(std) + bias, 80))` if the std is positive, else 0; in the type of r."""
    weight, bias = (np.float32(node.get_attribute(name)) for name in ("weight", "bias"))
    varies = ops.greater(std, np.float32(0))
    if limited:
        std = ops.minimum(std, np.float32(node.get_attribute("limit")))
    logarithm = ops.log(ops.select(varies, std, np.float32(1)))
    exponent = ops.add(ops.multiply(logarithm, weight), bias)
    amplification = ops.exp(ops.minimum(exponent, np.float32(LARGEST_EXPONENT)))
    return ops.convert_like(ops.select(varies, amplification, np.float32(0)), r)


def _modulated(ops: Any, x: Any, r: Any, factor: Any, delta: Any) -> Any:
    """`x + (r * factor + delta)`: in this order OpenVINO makes one operator of it."""
    branch = ops.multiply(r, factor)
    return ops.add(x, branch if delta is None else ops.add(branch, delta))


def _mean(ops: Any, value: Any) -> Any:
    """Mean over one image, plane by plane."""
    planes = ops.reduce_mean(value, np.array([2, 3]), keep_dims=True)
    return ops.reduce_mean(planes, np.array([1]), keep_dims=True)


def _group_norm(node: Any) -> list[Any]:
    """Convert GroupNorm in float32; OpenVINO's computes statistics in the type of its input."""
    ops = _operators()
    x = node.get_input(0)
    scale, bias = (ops.convert(node.get_input(index), "f32") for index in (1, 2))
    groups, epsilon = node.get_attribute("num_groups"), node.get_attribute("epsilon")
    normal = ops.group_normalization(ops.convert(x, "f32"), scale, bias, int(groups), epsilon)
    return [ops.convert_like(normal, x).output(0)]


def _attention_round(node: Any) -> list[Any]:
    """Convert SparseAttentionRound, with OpenVINO's sort instead of the counting sort."""
    ops = _operators()
    match, values, rotations = map(node.get_input, range(3))
    chunk = np.array([node.get_attribute("chunk_size")], np.int64)
    zero, one, two = (np.array([number], np.int64) for number in range(3))
    shape = ops.shape_of(values)
    batch, channels, height, width = (
        ops.gather(shape, np.array([axis]), np.int64(0)) for axis in range(4)
    )
    pixels = ops.multiply(height, width)
    whole = ops.divide(pixels, chunk)
    odd = ops.mod(whole, two)
    buckets = ops.minimum(ops.add(whole, odd), np.array([LARGEST_BUCKETS], np.int64))
    chunks = ops.divide(ops.add(pixels, chunk - 1), chunk)
    filling = ops.subtract(ops.multiply(chunks, chunk), pixels)

    def rows(image: Any) -> Any:
        flat = ops.reshape(ops.convert(image, "f32"), np.array([0, 0, -1]), special_zero=True)
        return ops.transpose(flat, np.array([0, 2, 1]))

    match_rows, value_rows = rows(match), rows(values)
    used = ops.slice(ops.convert(rotations, "f32"), zero, ops.divide(buckets, two), one, one)
    projected = ops.matmul(match_rows, used, transpose_a=False, transpose_b=False)
    similarity = ops.concat([projected, ops.negative(projected)], axis=2)
    nearest = ops.topk(similarity, np.int64(1), 2, "max", "value", "i64", stable=True)
    codes = ops.squeeze(nearest.output(1), two)

    # Keys of their own make the sort stable: the time of `stable=True` grows with the square.
    number = ops.squeeze(pixels, zero)
    counted = ops.range(np.int64(0), number, np.int64(1), "i64")
    sort_keys = ops.convert(ops.add(ops.multiply(codes, pixels), counted), "i32")
    order = ops.topk(sort_keys, number, 1, "min", "value", "i64").output(1)
    last = ops.slice(order, ops.subtract(pixels, filling), pixels, one, one)
    order_filled = ops.concat([order, last], axis=1)
    places = ops.broadcast(counted, ops.shape_of(order))
    place = ops.scatter_elements_update(order, order, places, np.int64(1))

    reshape = functools.partial(ops.reshape, special_zero=False)
    in_chunks = ops.concat([batch, chunks, chunk, np.array([-1])], axis=0)

    def chunked(flat: Any) -> Any:
        return reshape(ops.gather(flat, order_filled, np.int64(1), 1), in_chunks)

    def with_neighbours(own: Any) -> Any:
        beside = [ops.roll(own, np.array([step]), one) for step in (1, -1)]
        return ops.concat([own, *beside], axis=2)

    queries = chunked(match_rows)
    squared = ops.reduce_sum(ops.multiply(queries, queries), np.array([3]), keep_dims=True)
    keys = ops.divide(queries, ops.maximum(ops.sqrt(squared), np.float32(SMALLEST_NORM)))
    scores = ops.matmul(queries, with_neighbours(keys), transpose_a=False, transpose_b=True)
    top = ops.reduce_max(scores, np.array([3]), keep_dims=True)
    exponential = ops.exp(ops.subtract(scores, top))
    total = ops.reduce_sum(exponential, np.array([3]), keep_dims=True)
    near = with_neighbours(chunked(value_rows))
    weighed = ops.matmul(exponential, near, transpose_a=False, transpose_b=False)

    def image(sorted_rows: Any, planes: Any) -> Any:
        flat = reshape(sorted_rows, ops.concat([batch, np.array([-1]), planes], 0))
        columns = ops.transpose(ops.gather(flat, place, np.int64(1), 1), np.array([0, 2, 1]))
        wide = reshape(columns, ops.concat([batch, planes, height, width], axis=0))
        return ops.convert_like(wide, values).output(0)

    attended = image(ops.divide(weighed, total), channels)
    weight = image(ops.add(ops.log(total), top), ops.constant(one))
    return [attended, weight, codes.output(0)]


@functools.cache
def _operators() -> Any:
    return require("openvino.opset15", "openvino")


CONVERTERS: dict[str, Callable[[Any], list[Any]]] = {
    **{
        f"AdaDMModulate{'Shifted' * shifted}{'Limited' * limited}{'WithFactor' * with_factor}": (
            functools.partial(_modulate, shifted=shifted, limited=limited, with_factor=with_factor)
        )
        for shifted, limited, with_factor in itertools.product((False, True), repeat=3)
    },
    **{
        f"AdaDMModulate{'Shifted' * shifted}External{'Limited' * limited}": functools.partial(
            _modulate_external, shifted=shifted, limited=limited
        )
        for shifted, limited in itertools.product((False, True), repeat=2)
    },
    "AdaDMMoments": functools.partial(_moments, shifted=False),
    "AdaDMMomentsShifted": functools.partial(_moments, shifted=True),
    "AdaDMStandardDeviation": _standard_deviation,
    "GroupNorm": _group_norm,
    "SparseAttentionRound": _attention_round,
}
