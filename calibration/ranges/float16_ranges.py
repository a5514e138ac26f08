"""Float16 ranges of a graph: overflow, underflow, and the values that must stay float32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adadm.calibration.passes.lower_to_half import MOVES
from adadm.calibration.ranges.tensor_statistics import FACTOR, TensorStatistics
from adadm.export.operators.modulator import modulators
from adadm.runtime.tables import Console, make_table

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)
_MARGIN = 4.0

LARGEST_SAFE = _LARGEST / _MARGIN
"""Largest magnitude on the calibration images at which a tensor is safe on others too."""

_WANTED_PEAK = 2.0**10
_PRINTED = 5


@dataclass(frozen=True)
class HalfRange:
    """Distance of a tensor from both ends of float16.

    Attributes:
        peak: largest magnitude.
        below_overflow: 65504 divided by `peak`.
        above_underflow: root mean square in units of 2**-14, below which digits are lost.
        wide: True if the tensor stays float32.
    """

    name: str
    peak: float
    below_overflow: float
    above_underflow: float
    wide: bool


def trunk_exponent(graph: ir.Graph, statistics: Mapping[str, TensorStatistics]) -> int:
    """Exponent of two that moves the trunk far from overflow; 0 if it is far already."""
    trunk = [value for node in modulators(graph) for value in (node.inputs[0], node.outputs[0])]
    peaks = [statistics[str(v.name)].peak for v in trunk if v is not None]
    peak = max(peaks, default=0.0)
    return math.floor(math.log2(_WANTED_PEAK / peak)) if peak > LARGEST_SAFE else 0


def wide_values(graph: ir.Graph, statistics: Mapping[str, TensorStatistics]) -> set[str]:
    """Names of values that must stay float32; a factor is named by its modulator's result."""
    returned_with = _results_by_factor(graph)
    computed = {value.name for node in graph for value in node.outputs}
    wide = {name for name, tensor in statistics.items() if not tensor.peak <= LARGEST_SAFE}
    return {returned_with.get(name, name) for name in wide} & computed


def _results_by_factor(graph: ir.Graph) -> dict[str, str]:
    """Result of each modulator, by the name of its factor."""
    return {
        f"{FACTOR}{index}": str(modulator.outputs[0].name)
        for index, modulator in enumerate(modulators(graph))
    }


def half_ranges(graph: ir.Graph, statistics: Mapping[str, TensorStatistics]) -> list[HalfRange]:
    """Distance of each tensor from overflow and underflow, the nearest to overflow first.

    Tensors that only move the values of another are left out.
    """
    wide = wide_values(graph, statistics)
    returned_with = _results_by_factor(graph)
    moved = {value.name for node in graph if node.op_type in MOVES for value in node.outputs}
    ranges = [
        HalfRange(
            name=name,
            peak=tensor.peak,
            below_overflow=_LARGEST / tensor.peak if tensor.peak else math.inf,
            above_underflow=tensor.rms / _SMALLEST_NORMAL,
            wide=returned_with.get(name, name) in wide,
        )
        for name, tensor in statistics.items()
        if name not in moved
    ]
    return sorted(ranges, key=lambda half_range: (half_range.below_overflow, half_range.name))


def print_half_ranges(ranges: list[HalfRange], console: Console) -> None:
    """Print the tensors nearest to overflow and to underflow."""
    headers = ("tensor", "largest", "below overflow", "rms above underflow", "")
    title = "Where float16 ends (65504, 6.1e-5)"
    table = make_table(title, headers, left=("",), fold=("tensor",))
    low = sorted(ranges, key=lambda half_range: half_range.above_underflow)[:_PRINTED]
    for half_range in dict.fromkeys([*ranges[:_PRINTED], *low]):
        table.add_row(
            half_range.name,
            f"{half_range.peak:.4g}",
            f"{half_range.below_overflow:.3g} times",
            f"{half_range.above_underflow:.3g} times",
            "stays float32" if half_range.wide else "",
        )
    console.print(table)
