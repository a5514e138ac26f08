"""Headroom of a network in float16 and in INT8, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from adadm.calibration.lowering import Lowering
from adadm.calibration.ranges.float16_ranges import HalfRange, half_ranges
from adadm.calibration.ranges.int8_ranges import ConvolutionRange, choose_ranges
from adadm.calibration.ranges.tensor_statistics import FACTOR, TensorStatistics
from adadm.deployment.inspection.structure import block_of
from adadm.export.graph.rewriting import label


@dataclass(frozen=True)
class Headroom:
    """The tensors of a block with the least headroom.

    Attributes:
        largest: tensor nearest to overflow in float16.
        smallest: tensor whose root mean square is nearest to underflow; None if all are zero.
        bits: least number of bits for typical values in INT8: log2 of the std of a convolution's
            input, in steps of its scale. None without a convolution that can be INT8 and has a
            varying input.
        convolution: name of the convolution with the least `bits`.
    """

    largest: HalfRange
    smallest: HalfRange | None
    bits: float | None
    convolution: str


def measure_headroom(lowering: Lowering, blocks: Iterable[str]) -> dict[str | None, Headroom]:
    """Headroom by block name; key None for the rest of the network.

    Ranges are those of `adadm quantize` before it scales a trunk that is too large.
    """
    names, graph = list(blocks), lowering.whole.graph
    halves: dict[str | None, list[HalfRange]] = {}
    for found in half_ranges(graph, lowering.statistics):
        halves.setdefault(_block_of_value(found.name, names), []).append(found)
    ranges = choose_ranges(graph, lowering.statistics)
    bits: dict[str | None, list[tuple[float, str]]] = {}
    for node in graph:
        name = label(node)
        if name in ranges:
            assert node.inputs[0] is not None  # choose_ranges() read it
            statistics = lowering.statistics[str(node.inputs[0].name)]
            if typical := _typical_steps(statistics, ranges[name]):
                place = block_of(name, names)
                bits.setdefault(place, []).append((math.log2(typical), name))
    return {
        block: Headroom(
            largest=inside[0],  # half_ranges() sorts them
            smallest=min(
                (found for found in inside if found.above_underflow),
                key=lambda found: found.above_underflow,
                default=None,
            ),
            bits=min(bits[block])[0] if block in bits else None,
            convolution=min(bits[block])[1] if block in bits else "",
        )
        for block in (*names, None)
        if (inside := halves.get(block))
    }


def _block_of_value(name: str, blocks: list[str]) -> str | None:
    if name.startswith(FACTOR) and (index := name.removeprefix(FACTOR)).isdigit():
        return blocks[int(index)]
    return block_of(name, blocks)


def _typical_steps(known: TensorStatistics, chosen: ConvolutionRange) -> float:
    """Std of a convolution's input, in steps of its scale."""
    variance = np.maximum(known.square - known.mean**2, 0) * chosen.equalizer**2
    return math.sqrt(variance.mean()) / chosen.scale
