#!/usr/bin/env python3
"""Measure how far results are from their images; write docs/results/guard.md.

Right results are those of the networks with their limits, on photographs, drawn pictures and plain
images. Wrong ones are those of other networks or images. The margin of the guard stands between.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adadm.export.checkpoint import load_checkpoint
from adadm.export.proof.drawn_pictures import drawn_pictures
from adadm.export.proof.pytorch import enlarge_image
from adadm.runtime.arguments import Paths
from adadm.runtime.cli import run
from adadm.runtime.images.arrays import (
    ImageArray,
    crop_to_multiple,
    reduce,
)
from adadm.runtime.images.metrics import LARGEST_LOSS_DB, resemblance_margin
from adadm.runtime.progress import track
from adadm.runtime.upscaling.result_guard import MARGIN, worst_cell
from adadm.runtime.upscaling.upscaler import Upscaler

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for a run by the path
from studies import pages
from studies.inputs import add_inputs, read_photographs

SIDE_PX = 80
Images = Mapping[str, ImageArray]
Enlarge = Callable[[ImageArray], ImageArray]


def main(argv: list[str]) -> None:
    """Measure, then write the page."""
    arguments = _parse(argv)
    if arguments.draw:
        results = pages.read_results("guard")
    else:
        photos = read_photographs(arguments.photographs)
        results = {path.stem: _checkpoint(path, photos) for path in arguments.checkpoints}
        for path in arguments.models:
            with Upscaler(path, backend="cpu", tile="off", accept=True) as upscaler:
                lr = _low(photos, upscaler.upscale_factor)
                results[path.stem] = _right(upscaler.upscale, lr)[0]  # type: ignore[arg-type]
        pages.write_results("guard", results)
    pages.write_page("guard", _page(results))


def _checkpoint(path: Path, photos: Images) -> dict[str, Any]:
    limited, free = (load_checkpoint(path, limit=limit).network for limit in (None, "off"))
    torch.manual_seed(0)
    untrained = type(limited)(**limited.hyperparameters).eval()
    lr, drawn = _low(photos, limited.upscale), _drawn()
    right, sr = _right(lambda image: enlarge_image(limited, image), lr)
    names = list(lr)
    lost = {}
    for name, image in track(drawn.items(), path.stem):
        result = enlarge_image(free, image)
        if resemblance_margin(result, image) < -LARGEST_LOSS_DB:
            lost[name] = result
    before = {name: sr[other] for other, name in itertools.pairwise(names)}
    if lost:  # by a network that was trained on photographs alone
        kind = f"wrong: drawn pictures that are lost without limits (by {LARGEST_LOSS_DB:g} dB)"
        right |= {kind: _least(lost, drawn)}
    return right | {
        "wrong: the result of another photograph": _least(before, lr),
        "wrong: all zeros": _least({name: 0 * image for name, image in sr.items()}, lr),
        "wrong: an untrained network": _least(
            {name: enlarge_image(untrained, lr[name]) for name in names}, lr
        ),
    }


def _right(enlarge: Enlarge, photos: Images) -> tuple[dict[str, Any], Images]:
    """Figures of all sets, and the results of the photographs."""
    sr = {name: enlarge(image) for name, image in photos.items()}
    figures = {"right: photographs": _most(sr, photos)}
    for kind, images in (("drawn pictures", _drawn()), ("plain images", _plain())):
        results = {name: enlarge(image) for name, image in images.items()}
        figures[f"right: {kind}"] = _most(results, images)
    return figures, sr


def _low(photos: Images, upscale: int) -> dict[str, ImageArray]:
    """The middle of each photograph, reduced."""
    cut = {}
    for name, photo in photos.items():
        lr = reduce(crop_to_multiple(photo, upscale), upscale)
        top, left = (max(0, side - SIDE_PX) // 2 for side in lr.shape[:2])
        cut[name] = lr[top : top + SIDE_PX, left : left + SIDE_PX]
    return {name: lr for name, lr in cut.items() if lr.shape[:2] == (SIDE_PX, SIDE_PX)} or cut


def _drawn() -> dict[str, ImageArray]:
    return drawn_pictures() | drawn_pictures(unseen=True)


def _plain() -> dict[str, ImageArray]:
    """Noise, images of one colour, and such with one other line at a border, in many sizes."""
    rng = np.random.default_rng(0)
    images = {}
    for height, width in ((1, 1), (1, 2), (2, 1), (1, 64), (64, 1), (2, 3), (5, 5), (9, 40)):
        size = f"{width}x{height}"
        for seed in range(4):
            levels = rng.integers(0, 256, (height, width, 3), np.uint8)
            images[f"{size} noise {seed}"] = levels
            images[f"{size} black and white {seed}"] = levels // 128 * np.uint8(255)
        images[f"{size} white"] = np.full((height, width, 3), 255, np.uint8)
    for colour in np.ndindex(2, 2, 2):
        flat = np.full((40, 40, 3), np.array(colour) * 255, np.uint8)
        edge = flat.copy()
        edge[0] = 255 - edge[0]
        images |= {f"flat {colour}": flat, f"line at the border of {colour}": edge}
    return images


def _most(results: Images, images: Images) -> dict[str, Any]:
    """The margin that the worst of right results needs."""
    return _extreme(results, images, max)


def _least(results: Images, images: Images) -> dict[str, Any]:
    """The margin below which none of wrong results lies."""
    return _extreme(results, images, min)


def _extreme(results: Images, images: Images, choose: Callable[..., str]) -> dict[str, Any]:
    figures: dict[str, Any] = {"images": len(results)}
    for kind, sampled in (("upscale", False), ("frames", True)):
        margins = {}
        for name, sr in results.items():
            cell = worst_cell(images[name][None], sr[None], white=255, sampled=sampled)
            margins[name] = cell.distance - cell.limit + MARGIN
        name = choose(margins, key=margins.__getitem__)
        refused = sum(margin > MARGIN for margin in margins.values())
        figures[kind] = {"margin": margins[name], "image": name, "refused": refused}
    return figures


def _page(results: dict[str, Any]) -> str:
    lines = [
        "# The guard on results, measured",
        "",
        "Written by `scripts/studies/guard/study.py`; every figure comes from",
        "[its JSON](guard.json). What is measured: [guard](../explanation/result-guard.md).",
        "",
        f"The guard refuses a result that needs a margin above {MARGIN:g} grey levels of 255. For",
        "right results the table gives the largest margin that one of them needs, for wrong ones",
        "the least. *In frames*, one row in eight is compared.",
        "",
    ]
    for name, rows in results.items():
        head = ["results", "images", "refused", "margin", "image"]
        head += [f"{title} in frames" for title in head[2:4]] + ["image"]
        cells = [
            [kind, str(row["images"])]
            + [
                text
                for part in (row["upscale"], row["frames"])
                for text in (str(part["refused"]), f"{part['margin']:.1f}", part["image"])
            ]
            for kind, row in rows.items()
        ]
        lines += [f"## {name}", "", pages.table(head, cells), ""]
    return "\n".join(lines)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = pages.study_parser("guard", __doc__)
    paths = Paths()
    add_inputs(parser, paths)
    parser.add_argument(
        "--models", type=paths.read, nargs="+", default=[], help="lowered models to measure besides"
    )
    arguments = parser.parse_args(argv)
    paths.check()
    return arguments


if __name__ == "__main__":
    sys.exit(run("studies/guard/study.py", main, sys.argv[1:]))
