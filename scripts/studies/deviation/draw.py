"""Pictures of the study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from adadm.calibration.drawing import drawing_style
from adadm.runtime.images.arrays import ImageArray, write_image
from studies.pages import save_figure

NAMES = {
    "plain": "no normalization",
    "normalized": "batch normalization",
    "adadm": "batch normalization and AdaDM",
}
_COLORS = {"plain": "#6b7280", "normalized": "#c2410c", "adadm": "#1d4ed8"}
_MIDDLE_PX = 128

Rows = Sequence[Mapping[str, Any]]


def deviations(twins: Mapping[str, Rows], path: Path) -> None:
    """Draw standard deviations by block: of the trunk, of the branch's input, and of its result."""
    with _figure(path, 1, 3, (11, 3.6)) as axes:
        for twin, rows in twins.items():
            trunk, read, added = (
                np.array([[block[name] for block in row["blocks"]] for row in rows])
                for name in ("trunk", "normalized", "added")
            )
            for axis, values in zip(axes, (trunk, read, 100 * added / trunk), strict=True):
                _band(axis, twin, values)
        titles = (
            "what enters the block",
            "what its first convolution reads",
            "what it adds, % of what enters",
        )
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("block")
            axis.grid(axis="y", linewidth=0.4, alpha=0.5)
        for axis in axes[1:]:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("standard deviation, grey levels")
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
        )


def modulators(rows: Rows, path: Path) -> None:
    """Draw the learned w and b of each block, a line for each seed."""
    with _figure(path, 1, 2, (9, 3)) as axes:
        for axis, name in zip(axes, "wb", strict=True):
            for row in rows:
                values = [block[name] for block in row["modulators"]]
                axis.plot(range(len(values)), values, marker="o", markersize=3, linewidth=1)
            axis.axhline({"w": 1, "b": 0}[name], color="black", linewidth=0.6, linestyle=":")
            axis.set_title(f"{name} (dotted: before training)", fontsize=9)
            axis.set_xlabel("block")
        axes[0].figure.legend(
            [f"seed {row['seed']}" for row in rows],
            loc="outside lower center",
            ncols=len(rows),
            frameon=False,
        )


def edge_maps(
    original: ImageArray, maps: Mapping[str, npt.NDArray[np.float32]], path: Path
) -> None:
    """Draw the photograph, and the residual of a middle block of each twin, each to its maximum."""
    height, width = original.shape[:2]
    top, left = (height - 2 * _MIDDLE_PX) // 2, (width - 2 * _MIDDLE_PX) // 2
    photo = original[top : top + 2 * _MIDDLE_PX, left : left + 2 * _MIDDLE_PX]
    figure = plt.figure(figsize=(10, 2.9), layout="constrained")
    axes = figure.subplots(1, 1 + len(maps))
    axes[0].imshow(photo)
    axes[0].set_title("photograph", fontsize=9)
    for axis, (twin, strength) in zip(axes[1:], maps.items(), strict=True):
        axis.imshow(strength, cmap="gray", vmin=0, vmax=float(np.quantile(strength, 0.995)))
        axis.set_title(f"{NAMES[twin]}\nmean {strength.mean():.2f} levels", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    plt.close(figure)
    write_image(path, np.ascontiguousarray(pixels), quality=90, method=6)


def _band(axis: Axes, twin: str, values: npt.NDArray[np.float64]) -> None:
    """Draw the mean over seeds as a line, and the range from least to largest as a band."""
    blocks = range(values.shape[1])
    color = _COLORS[twin]
    axis.plot(blocks, values.mean(axis=0), color=color, label=NAMES[twin])
    axis.fill_between(blocks, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2)


@contextmanager
def _figure(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    """Yield axes, then write them as SVG; equal figures give equal bytes."""
    with drawing_style():
        figure = plt.figure(figsize=size, layout="constrained")
        yield figure.subplots(rows, columns)
        save_figure(figure, path)
