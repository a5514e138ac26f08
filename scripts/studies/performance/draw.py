"""Plots of docs/results/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from adadm.calibration.drawing import drawing_style
from studies.pages import save_figure
from studies.performance.networks import Case
from studies.performance.peers import CPU_PEERS

_KINDS = {
    "Conv": "#4e79a7",
    "Conv INT8": "#a0cbe8",
    "DepthToSpace": "#e15759",
    "reordering": "#f28e2b",
    "quantizing": "#edc948",
    "statistics": "#59a14f",
    "elementwise": "#76b7e2",
    "other": "#bab0ac",
}
_OPERATORS = {
    "Conv": "FusedConv Convolution",
    "Conv INT8": "Convolution_INT8",
    "reordering": "ReorderInput ReorderOutput Transpose Reorder",
    "quantizing": "FakeQuantize",
    "statistics": "ReduceMean ReduceSum ReduceSumSquare SquaredDifference",
    "elementwise": "Sub Add Mul Multiply Relu BatchNormalization Subgraph",
}
"""Operators of ONNX Runtime and of OpenVINO by kind."""
_KIND_OF = {operator: kind for kind, names in _OPERATORS.items() for operator in names.split()}


def draw(results: Mapping[str, Any], cases: Mapping[str, Case], folder: Path) -> None:
    """Write every plot for which there are figures."""
    with drawing_style({"font.size": 10}):
        measured = [key for key in cases if key in results]
        if measured:
            _save(_latencies(results, cases, measured), folder / "performance_peers.svg")
        if "sweep" in results:
            _save(_sizes(results["sweep"]), folder / "performance_sizes.svg")
        for part, label, name in (
            ("profile", "ms in nodes, ONNX Runtime on the CPU", "nodes"),
            ("int8_profile", "ms in nodes of the INT8 model, OpenVINO", "int8"),
        ):
            bars = {
                f"{cases[key].title}: {form}": profile
                for key in measured
                for form, profile in results[key].get(part, {}).items()
            }
            if bars:
                _save(_kinds(bars, label), folder / f"performance_{name}.svg")


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    save_figure(figure, path, bbox_inches="tight")


def _latencies(results: Mapping[str, Any], cases: Mapping[str, Case], keys: list[str]) -> Figure:
    """Plot a panel for each network, with a bar for each peer from fastest to slowest inference."""
    columns = 2
    rows = -(-len(keys) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(12, 2.5 * rows), squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    for index, (key, axis) in enumerate(zip(keys, axes.flat, strict=False)):
        peers = results[key]["peers"]
        names = [name for name in CPU_PEERS if name in peers]
        for place, name in enumerate(names):
            times = peers[name].get("ms")
            if not times:
                axis.text(0, place, " failed", va="center", color="gray")
                continue
            middle = statistics.median(times)
            spread = [[middle - min(times)], [max(times) - middle]]
            axis.barh(place, middle, color=CPU_PEERS[name].color, xerr=spread, ecolor="#333333")
            axis.text(max(times) * 1.02, place, f"{middle:.0f}", va="center")
        height, width = cases[key].size
        axis.set_title(f"{cases[key].title}, from {width}x{height}", loc="left", fontweight="bold")
        axis.set_yticks(range(len(names)))
        shown = index % columns == 0
        axis.set_yticklabels([CPU_PEERS[name].name for name in names] if shown else [])
        axis.invert_yaxis()
        axis.set_xlabel("ms an image; lower is better")
        axis.margins(x=0.14)
    return figure


def _sizes(points: list[Mapping[str, Any]]) -> Figure:
    """Plot latency and peak memory against pixels."""
    figure, (time_axis, memory_axis) = plt.subplots(1, 2, figsize=(12, 4.6))
    for name, peer in CPU_PEERS.items():
        measured = [p for p in points if "ms" in p["peers"].get(name, {})]
        if not measured:
            continue
        pixels = [np.prod(p["size"]) for p in measured]
        times = [statistics.median(p["peers"][name]["ms"]) for p in measured]
        memory = [p["peers"][name]["peak_bytes"] / 2**30 for p in measured]
        line = "-" if peer.ours else "--"
        for axis, values in ((time_axis, times), (memory_axis, memory)):
            axis.plot(pixels, values, f"o{line}", color=peer.color, label=peer.name)
    sizes = {int(np.prod(p["size"])): "x".join(map(str, reversed(p["size"]))) for p in points}
    for axis, label in ((time_axis, "ms an image"), (memory_axis, "peak memory, GiB")):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(list(sizes), list(sizes.values()), rotation=40, ha="right")
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_xlabel("input, px")
        axis.set_title(label, loc="left", fontweight="bold")
        axis.grid(alpha=0.3)
    time_axis.legend(frameon=False)
    return figure


def kind_groups(*profiles: Mapping[str, Any]) -> list[dict[str, float]]:
    """Milliseconds of profiles by the kinds of nodes that any of them has, as in the plot."""
    sums = []
    for profile in profiles:
        groups = dict.fromkeys(_KINDS, 0.0)
        for kind, measured in profile["kinds"].items():
            group = _KIND_OF.get(kind.replace(" ", "_"), kind)
            groups[group if group in groups else "other"] += measured["ms"]
        sums.append(groups)
    seen = [kind for kind in _KINDS if any(groups[kind] for groups in sums)]
    return [{kind: groups[kind] for kind in seen} for groups in sums]


def _kinds(bars: Mapping[str, Mapping[str, Any]], label: str) -> Figure:
    """Plot the time of profiles by kind of node, by the names of their bars."""
    figure, axis = plt.subplots(figsize=(12, 0.75 * len(bars) + 1.4))
    profiles = kind_groups(*bars.values())
    for place, groups in enumerate(profiles):
        left = 0.0
        for group, ms in groups.items():
            axis.barh(place, ms, left=left, color=_KINDS[group], label=group if not place else None)
            left += ms
        axis.text(left * 1.01, place, f"{left:.0f} ms", va="center")
    axis.set_yticks(range(len(bars)), list(bars))
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.margins(x=0.1)
    axis.legend(
        frameon=False, ncols=len(profiles[0]), loc="upper center", bbox_to_anchor=(0.45, -0.22)
    )
    return figure
