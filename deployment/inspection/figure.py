"""An inspection as a picture: the blocks from left to right, one panel a kind of figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adadm.calibration.drawing import drawing_style
from adadm.deployment.inspection.responses import Spread
from adadm.deployment.inspection.rules import FEW_BITS, OVERFLOW
from adadm.deployment.inspection.structure import Normalization
from adadm.deployment.inspection.summary import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]

PICTURES = (".svg", ".png")

_COLORS = ("#4e79a7", "#e15759", "#59a14f", "#f28e2b", "#b07aa1", "#76b7b2")
_MOST_NAMES = 16
_PANEL_INCHES = (5.0, 2.5)
_COLUMNS = 2
_DECADES = 1e3
"""Ratio below which a logarithmic scale also has numbers between the powers of 10."""


def draw_inspection(inspection: Inspection, path: Path) -> None:
    """Draw the figures; equal figures give equal bytes.

    Args:
        path: ends in one of `PICTURES`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    panels = _panels(inspection)
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = _PANEL_INCHES
    names = [block.name for block in inspection.inspected.structure.blocks]
    step = math.ceil(len(names) / _MOST_NAMES)
    with drawing_style({"axes.titlelocation": "left"}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, draw in zip(axes.flat, panels, strict=False):
            draw(axis, inspection)
            axis.set_xticks(range(0, len(names), step), names[::step], rotation=45, ha="right")
            axis.set_xlim(-0.6, len(names) - 0.4)
            axis.legend(frameon=False, ncols=3, fontsize=7, loc="upper right")
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        undated = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=150, metadata=undated, facecolor="white")


def _panels(inspection: Inspection) -> list[Callable[[Axes, Inspection], None]]:
    """Functions that draw the panels for which there is data."""
    panels: list[Callable[[Axes, Inspection], None]] = [_draw_modulators]
    blocks = inspection.inspected.structure.blocks
    normalizations = [normalization for block in blocks for normalization in block.normalizations]
    if normalizations:
        panels.append(_draw_gammas)
    if any(_magnitudes(normalization).size for normalization in normalizations):
        panels.append(_draw_scales)
    if inspection.responses:
        panels.append(_draw_factors)
    if inspection.headroom:
        panels += [_draw_deviations, _draw_headroom]
    return panels


def _draw_modulators(axis: Axes, inspection: Inspection) -> None:
    blocks = inspection.inspected.structure.blocks
    axis.axhline(0, color="0.6", linewidth=0.8)
    for name, values, color in (
        ("w", [block.weight for block in blocks], _COLORS[0]),
        ("b", [block.bias for block in blocks], _COLORS[1]),
    ):
        axis.plot(values, "o-", color=color, markersize=3, linewidth=1, label=name)
    axis.set_title("modulators: exp(w ln std(x) + b)")
    axis.margins(y=0.25)


def _draw_gammas(axis: Axes, inspection: Inspection) -> None:
    axis.axhline(0, color="0.6", linewidth=0.8)
    _draw_normalizations(axis, inspection, lambda found: found.gamma)
    axis.set_title("gammas, least to largest")
    axis.margins(y=0.25)


def _draw_scales(axis: Axes, inspection: Inspection) -> None:
    _draw_normalizations(axis, inspection, _magnitudes)
    _scale_log(axis)
    axis.set_title("|a| = |gamma| / sqrt(var + eps), least to largest")


def _magnitudes(found: Normalization) -> Array:
    """Magnitudes of the nonzero scales; empty if the statistics are those of the input."""
    scale = np.zeros(0) if found.scale is None else np.abs(found.scale)
    return scale[scale > 0]


def _draw_normalizations(
    axis: Axes, inspection: Inspection, values_of: Callable[[Normalization], Array]
) -> None:
    """Draw a bar from the least to the largest value of each, coloured by its name in its block."""
    blocks = inspection.inspected.structure.blocks
    kinds = dict.fromkeys(_within(n.name, b.name) for b in blocks for n in b.normalizations)
    for index, name in enumerate(kinds):
        bars = [
            (place, values_of(normalization))
            for place, block in enumerate(blocks)
            for normalization in block.normalizations
            if _within(normalization.name, block.name) == name
        ]
        drawn = [(place, values.min(), values.max()) for place, values in bars if values.size]
        if drawn:
            places, least, largest = zip(*drawn, strict=True)
            aside = 0.16 * (index - (len(kinds) - 1) / 2)
            color = _COLORS[index % len(_COLORS)]
            at = np.add(places, aside)
            axis.vlines(at, least, largest, color, linewidth=3, label=name)
            axis.plot([*at, *at], [*least, *largest], "_", color=color, markersize=4)


def _within(name: str, block: str) -> str:
    return name.removeprefix(f"{block}.")


def _draw_deviations(axis: Axes, inspection: Inspection) -> None:
    responses = inspection.responses
    _draw_spreads(axis, [response.trunk for response in responses], _COLORS[0], "std(x)")
    _draw_spreads(axis, [response.residual for response in responses], _COLORS[1], "std(r)")
    modulated = [response.modulated for response in responses]
    _draw_spreads(axis, modulated, _COLORS[2], "std(r * factor)")
    _scale_log(axis)
    axis.set_title("deviations over the photographs, before and after the factor")


def _draw_factors(axis: Axes, inspection: Inspection) -> None:
    factors = [response.factor for response in inspection.responses]
    _draw_spreads(axis, factors, _COLORS[3], "factor")
    _scale_log(axis)
    axis.set_title("factors over the photographs: least, mean, largest")


def _draw_spreads(axis: Axes, spreads: Sequence[Spread | None], color: str, name: str) -> None:
    """Draw the mean as a line, and the range from least to largest as a band around it."""
    present = [(p, s.least, s.mean, s.largest) for p, s in enumerate(spreads) if s is not None]
    if present:
        places, least, mean, largest = zip(*present, strict=True)
        axis.fill_between(places, least, largest, color=color, alpha=0.2, linewidth=0)
        axis.plot(places, mean, "o-", color=color, markersize=3, linewidth=1, label=name)


def _draw_headroom(axis: Axes, inspection: Inspection) -> None:
    rooms = [inspection.headroom.get(block.name) for block in inspection.inspected.structure.blocks]
    half = [math.nan if room is None else math.log2(room.largest.below_overflow) for room in rooms]
    int8 = [math.nan if room is None or room.bits is None else room.bits for room in rooms]
    for name, values, least, color in (
        ("factors of 2 to float16 overflow", half, math.log2(OVERFLOW.threshold), _COLORS[0]),
        ("INT8 bits of the typical value", int8, FEW_BITS.threshold, _COLORS[1]),
    ):
        axis.plot(values, "o-", color=color, markersize=3, linewidth=1, label=name)
        axis.axhline(least, color=color, linewidth=0.8, linestyle=":")
    drawn = [0.0, *(value for value in (*half, *int8) if math.isfinite(value))]
    axis.set_ylim(min(drawn), 1.3 * max(drawn) or 1.0)
    axis.set_title("headroom in float16 and in INT8; dotted: limit of the findings")


def _scale_log(axis: Axes) -> None:
    """Set a logarithmic scale with plain numbers, and room for the legend."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log", nonpositive="clip")
    axis.margins(y=0.25)
    least, largest = axis.get_ylim()
    if largest < _DECADES * least:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
