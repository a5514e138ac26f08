#!/usr/bin/env python3
"""Measure tiles against the whole image; write docs/results/tiles.md and its picture.

Runs scikit-image's photographs through the bundled models and a network of the published size, all
as 16-bit images, so that differences far below a grey level show.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm

from adadm.calibration.drawing import drawing_style
from adadm.export import to_onnx
from adadm.export.checkpoint import save_checkpoint
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.bounds import positive
from adadm.runtime.cli import run
from adadm.runtime.tables import Console
from adadm.runtime.upscaling.shared_std import Passes
from adadm.runtime.upscaling.tile_plan import Tile
from adadm.runtime.upscaling.upscaler import Upscaler

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for a run by the path
from studies import pages
from studies.performance.networks import CASES, random_network

TILE_PX = 128
LEVELS = 257  # 16-bit levels in one 8-bit level
PICTURED, BLOCK_PX = "rocket", 8
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
Levels = npt.NDArray[np.float64]


class Method(NamedTuple):
    """A way to run tiles."""

    name: str
    passes: Any
    overlap: int | None = None


METHODS = (
    Method("tile and pad by 10 px, as other tools do", 1, 10),
    Method("1 pass, default overlap", 1),
    Method("**2 passes (default)**", 2),
    Method("settled", "settle"),
)
PUBLISHED = "EDSR 32 x 256, x4 (published size, random weights)"


def main(argv: list[str]) -> None:
    """Measure, then write page and picture."""
    arguments = _parse(argv)
    console = Console(stderr=True)
    results: dict[str, list[dict[str, Any]]] = pages.read_results("tiles")
    if not arguments.draw:
        photos = {n: p.astype(np.uint16) * LEVELS for n, p in photographs(PHOTOGRAPHS).items()}
        for upscale in (2, 4):
            name = f"EDSR 8 x 48, x{upscale} (bundled)"
            results[name] = _measured(f"x{upscale}", photos, console)
        if not arguments.small:
            side = arguments.published_px
            crop = photos["coffee"][:side, :side]
            with _published_model(console) as model:
                results[PUBLISHED] = _measured(model, {f"coffee {side}x{side}": crop}, console)
        pages.write_results("tiles", results)
    _draw(pages.PICTURES / "tiling_seams.webp")
    pages.write_page("tiles", _page(results))


def _measured(
    model: str | Path, photos: dict[str, npt.NDArray[np.uint16]], console: Console
) -> list[dict[str, Any]]:
    rows = []
    with Upscaler(model, tile="off") as upscaler:
        whole = {name: upscaler.upscale(photo) for name, photo in photos.items()}
        upscale = upscaler.upscale_factor
    for method in METHODS:
        console.print(f"measuring {model}: {method.name}")
        with Upscaler(model, tile=TILE_PX, passes=method.passes, overlap=method.overlap) as tiled:
            errors = {
                name: (tiled.upscale(photo).astype(np.float64) - whole[name]) / LEVELS
                for name, photo in photos.items()
            }
            steps = [
                _steps(error, tiled.plan(*photos[name].shape[:2]), upscale)
                for name, error in errors.items()
            ]
            seam, elsewhere = np.sqrt(np.mean(np.square(steps), axis=0)).tolist()
            largest = {name: float(np.abs(error).max()) for name, error in errors.items()}
        rows.append(
            {
                "method": method.name,
                "overlap": tiled.overlap,
                "largest": largest,
                "seam": seam,
                "elsewhere": elsewhere,
            }
        )
    return rows


def _steps(error: Levels, plan: Any, upscale: int) -> tuple[float, float]:
    """Root mean square step of the error from pixel to pixel, across seams and elsewhere.

    A seam is visible as a step of the error that the image does not have.
    """
    across, inside = [], []
    cuts = (
        [row[0][0].inner_start * upscale for row in plan.windows[1:]],
        [column.inner_start * upscale for _, column in plan.windows[0][1:]],
    )
    for axis, lines in enumerate(cuts):
        steps = np.diff(error, axis=axis) ** 2
        is_seam = np.zeros(steps.shape[axis], bool)
        is_seam[[line - 1 for line in lines]] = True
        across.append(np.compress(is_seam, steps, axis=axis).ravel())
        inside.append(np.compress(~is_seam, steps, axis=axis).ravel())
    return (
        float(np.sqrt(np.concatenate(across).mean())),
        float(np.sqrt(np.concatenate(inside).mean())),
    )


@contextmanager
def _published_model(console: Console) -> Iterator[Path]:
    """Export a network of the published size with its models for tiles."""
    console.print(f"exporting {PUBLISHED}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, model = Path(folder) / "published.safetensors", Path(folder) / "published.onnx"
        save_checkpoint(checkpoint, random_network(CASES["published_x4"]))
        to_onnx.main([str(checkpoint), "-o", str(model), "--stats", "external"])
        yield model


def _draw(path: Path) -> None:
    """Draw a photograph in tiles, and each way's difference from the whole, on a log scale."""
    photo = photographs((PICTURED,))[PICTURED].astype(np.uint16) * LEVELS
    ways: tuple[tuple[str, Tile, Passes], ...] = (
        ("whole image", "off", 2),
        (f"tiles of {TILE_PX} px, 1 pass", TILE_PX, 1),
        (f"tiles of {TILE_PX} px, 2 passes", TILE_PX, 2),
    )
    results = {}
    for title, tile, passes in ways:
        with Upscaler("x2", tile=tile, passes=passes) as upscaler:
            results[title] = upscaler.upscale(photo)
    whole = results.pop(ways[0][0])
    with drawing_style({"font.size": 10, "axes.spines.top": True, "axes.spines.right": True}):
        figure, axes = plt.subplots(1, 3, figsize=(14, 3.4), layout="constrained")
        axes[0].imshow(whole >> 8)
        axes[0].set_title(ways[0][0])
        for axis, (title, image) in zip(axes[1:], results.items(), strict=True):
            error = np.abs(image.astype(np.float64) - whole).mean(axis=2) / LEVELS
            height, width = (side - side % BLOCK_PX for side in error.shape)
            blocks = error[:height, :width].reshape(height // BLOCK_PX, BLOCK_PX, -1, BLOCK_PX)
            shown = axis.imshow(  # clipped, since 0 has no logarithm and would stay white
                blocks.mean(axis=(1, 3)).clip(3e-3), cmap="magma", norm=LogNorm(3e-3, 3)
            )
            axis.set_title(f"difference: {title}")
        for axis in axes:
            axis.set_axis_off()
        figure.colorbar(shown, ax=axes, label="grey levels of 255")
        pages.save_figure(figure, path, dpi=90)


def _page(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "# Tiles against the whole image, measured",
        "",
        "Written by `scripts/studies/tiles/study.py`; every figure comes from",
        "[its JSON](tiles.json).",
        f"Tiles of {TILE_PX} px without their overlap, on 16-bit images; differences in grey",
        "levels of 255. *Seam* is the root mean square step of the error between neighbouring",
        "pixels across tile boundaries, *elsewhere* between all other neighbours.",
        "",
    ]
    for name, rows in results.items():
        photos = list(rows[0]["largest"])
        head = ["", "overlap, px", *(f"largest, {p}" for p in photos), "seam", "elsewhere"]
        cells = [
            [
                row["method"],
                str(row["overlap"]),
                *(f"{row['largest'][p]:.3g}" for p in photos),
                f"{row['seam']:.2g}",
                f"{row['elsewhere']:.2g}",
            ]
            for row in rows
        ]
        lines += [f"## {name}", "", pages.table(head, cells), ""]
    lines += [
        "## Seams of one pass",
        "",
        "With one pass, each tile has its own factors and so its own error, which ends at an edge.",
        "",
        "![Whole image, tiles with one pass, with two; differences](../images/tiling_seams.webp)",
        "",
    ]
    return "\n".join(lines)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = pages.study_parser("tiles", __doc__)
    parser.add_argument("--small", action="store_true", help="leave out the published size")
    parser.add_argument(
        "--published-px",
        type=positive,
        default=288,
        help="side of its photograph, px; default: 288",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run("studies/tiles/study.py", main, sys.argv[1:]))
