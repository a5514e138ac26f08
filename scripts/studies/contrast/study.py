#!/usr/bin/env python3
"""Measure limits of the modulators; write docs/results/contrast.md and its picture.

The study runs drawn pictures, on which networks diverge without a limit, and photographs, which no
limit may change. A result is judged at low resolution: reduced again, it should be as near to its
input as that of bicubic interpolation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from adadm.calibration.drawing import drawing_style
from adadm.export.checkpoint import load_checkpoint
from adadm.export.limits import FACTOR, Limit, deviations_of_training, trunk_deviations
from adadm.export.networks import Network
from adadm.export.proof.accuracy import drawn_margins
from adadm.export.proof.drawn_pictures import drawn_pictures
from adadm.export.proof.pytorch import enlarge_image
from adadm.runtime.arguments import Paths
from adadm.runtime.cli import run
from adadm.runtime.images.arrays import (
    ImageArray,
    batch_from_image,
    crop_to_multiple,
    enlarge,
    reduce,
)
from adadm.runtime.images.metrics import LARGEST_LOSS_DB
from adadm.runtime.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for a run by the path
from studies import pages
from studies.inputs import add_inputs, read_photographs

LIMITS: tuple[Limit, ...] = ("off", 1.25, 1.5, 1.75, 2.0, 2.5)
NEEDY = pages.CHECKPOINTS / "rdn_adadm_x2.safetensors"
"""A network that was trained on photographs alone, for the picture."""

PICTURED = ("bars_12", "checker_8", "line_art_4", "sprites_3")


def main(argv: list[str]) -> None:
    """Measure, then write page and picture."""
    arguments = _parse(argv)
    results = pages.read_results("contrast")
    if not arguments.draw:
        photos = read_photographs(arguments.photographs)
        results |= {
            path.stem: {
                "drawn": [_drawn(path, limit) for limit in track(LIMITS, path.stem)],
                "photographs": _reached(load_checkpoint(path, limit="off").network, photos),
            }
            for path in arguments.checkpoints
        }
        results = dict(sorted(results.items()))
        pages.write_results("contrast", results)
    _draw(NEEDY, pages.PICTURES / "contrast.webp")
    pages.write_page("contrast", _page(results))


def _drawn(path: Path, limit: Limit) -> dict[str, Any]:
    """Pictures that are lost with a limit, and the worst one, by dB against bicubic."""
    network = load_checkpoint(path, limit=limit).network
    row: dict[str, Any] = {"limit": limit}
    for name, unseen in (("drawn", False), ("unseen", True)):
        margins = drawn_margins(network, unseen=unseen)
        worst = min(margins, key=margins.__getitem__)
        lost = [picture for picture, margin in margins.items() if margin < -LARGEST_LOSS_DB]
        row[name] = {"pictures": len(margins), "lost": lost, "worst": worst, "db": margins[worst]}
    return row


def _reached(network: Network, photos: Mapping[str, ImageArray]) -> dict[str, float]:
    """Largest std of a trunk on each photograph, as a multiple of that of training."""
    trained = deviations_of_training(network)
    reached = {}
    for name, photo in photos.items():
        lr = reduce(crop_to_multiple(photo, network.upscale), network.upscale)
        stds = trunk_deviations(network, torch.from_numpy(batch_from_image(lr, network.rgb_range)))
        reached[name] = max(stds[modulator] / trained[modulator] for modulator in trained)
    return reached


def _draw(checkpoint: Path, path: Path) -> None:
    """Draw pictures enlarged by bicubic interpolation, without limits, and with limits."""
    free, limited = (load_checkpoint(checkpoint, limit=limit).network for limit in ("off", FACTOR))
    pictures = {**drawn_pictures(), **drawn_pictures(unseen=True)}
    with drawing_style({"font.size": 9}):
        figure, axes = plt.subplots(3, len(PICTURED), figsize=(9, 7), layout="constrained")
        for column, name in zip(axes.T, PICTURED, strict=True):
            lr = pictures[name]
            shown = {
                f"{name}: bicubic": enlarge(lr, free.upscale),
                "without a limit": enlarge_image(free, lr),
                f"limit {FACTOR:g}": enlarge_image(limited, lr),
            }
            for axis, (title, image) in zip(column, shown.items(), strict=True):
                axis.imshow(image, interpolation="nearest")
                axis.set_title(title)
                axis.set_axis_off()
        pages.save_figure(figure, path, dpi=90)


def _page(results: dict[str, Any]) -> str:
    lines = [
        "# Limits of the modulators, measured",
        "",
        "Written by `scripts/studies/contrast/study.py`; every figure comes from",
        "[its JSON](contrast.json). Why there are limits: [contrast](../explanation/contrast.md).",
        "",
        "![Drawn pictures, without and with limits](../images/contrast.webp)",
        "",
        "The picture is by the small RDN, which was trained on photographs alone, as NLSN was;",
        "EDSR was trained on drawn pictures of these kinds too, but for the unseen ones.",
        "",
    ]
    for name, result in results.items():
        head = ["limit", "lost, drawn", "worst, dB", "lost, unseen kinds", "worst, dB"]
        rows = []
        for row in result["drawn"]:
            cells = [str(row["limit"])]
            for kind in ("drawn", "unseen"):
                part = row[kind]
                cells.append(f"{len(part['lost'])} of {part['pictures']}")
                cells.append(f"{part['db']:+.1f} ({part['worst']})")
            rows.append(cells)
        reached = sorted(result["photographs"].items(), key=lambda item: -item[1])
        named = ", ".join(f"{photo} {ratio:.2f}" for photo, ratio in reached[:3])
        middle = float(np.median([ratio for _, ratio in reached]))
        lines += [
            f"## {name}",
            "",
            "A picture is lost where its result, reduced again, is more than "
            f"{LARGEST_LOSS_DB:g} dB further from the input than bicubic's.",
            "",
            pages.table(head, rows, numbers=True),
            "",
            f"Largest deviation of a trunk on {len(reached)} photographs, as a multiple of that "
            f"of training: median {middle:.2f}; highest {named}.",
            "",
        ]
    return "\n".join(lines)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = pages.study_parser("contrast", __doc__)
    paths = Paths()
    add_inputs(parser, paths, "; figures of other networks stay")
    arguments = parser.parse_args(argv)
    paths.check()
    return arguments


if __name__ == "__main__":
    sys.exit(run("studies/contrast/study.py", main, sys.argv[1:]))
