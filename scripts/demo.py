#!/usr/bin/env python3
"""Export a bundled checkpoint, verify the export, and enlarge photographs with it.

Writes into demo-output/ the exported model and, for each photograph, a strip of one detail: at low
resolution, enlarged by bicubic interpolation, enlarged by the network, and in the original.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from adadm.export import to_onnx
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.arguments import Parser
from adadm.runtime.cli import run
from adadm.runtime.images.arrays import (
    ImageArray,
    crop_to_multiple,
    enlarge,
    reduce,
    write_image,
)
from adadm.runtime.images.metrics import psnr_y
from adadm.runtime.progress import track
from adadm.runtime.tables import Console, make_table
from adadm.runtime.terminal import say
from adadm.runtime.upscaling.upscaler import Upscaler

CHECKPOINTS = Path(__file__).resolve().parent.parent / "export" / "checkpoints"
PANEL_PX = 320
GAP_PX = 8
# The middle of the detail, as a share of height and width.
DETAILS = {
    "astronaut": (0.22, 0.45),
    "coffee": (0.48, 0.60),
    "chelsea": (0.38, 0.52),
    "rocket": (0.50, 0.50),
}


def main(argv: list[str]) -> None:
    """Run the demo."""
    arguments = _parse(argv)
    output: Path = arguments.output
    checkpoint = CHECKPOINTS / f"edsr_adadm_x{arguments.upscale}.safetensors"
    model = output / f"edsr_adadm_x{arguments.upscale}.onnx"
    to_onnx.main([str(checkpoint), "-o", str(model), "--report", str(model.with_suffix(".json"))])

    upscaler = Upscaler(model, backend="cpu", tile="off")
    upscale = upscaler.upscale_factor
    headers = ("photograph", "bicubic", "ours", "gain")
    title = f"PSNR-Y in dB, reduced and enlarged x{upscale}"
    table = make_table(title, headers, left=("photograph",))
    strips = []
    photos = photographs(tuple(DETAILS))
    for name, photo in track(photos.items(), "enlarging"):
        hr = crop_to_multiple(photo, upscale)
        lr = reduce(hr, upscale)
        bicubic = enlarge(lr, upscale)
        sr = upscaler.upscale(lr).astype(np.uint8)
        write_image(output / f"{name}_x{upscale}.png", sr)
        before, after = (psnr_y(image, hr, upscale) for image in (bicubic, sr))
        table.add_row(name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}")
        nearest = lr.repeat(upscale, axis=0).repeat(upscale, axis=1)
        panels = {
            f"{name}: low resolution": nearest,
            f"bicubic {before:.2f} dB": bicubic,
            f"EDSR with AdaDM {after:.2f} dB": sr,
            "original": hr,
        }
        strips.append(_strip(panels, DETAILS[name]))
    picture = output / f"comparison_x{upscale}.png"
    gap = ((0, GAP_PX), (0, 0), (0, 0))
    spaced = [np.pad(np.asarray(strip), gap, constant_values=255) for strip in strips]
    write_image(picture, np.concatenate(spaced)[:-GAP_PX])
    Console().print(table)
    say(f"wrote {picture}: look at it")


def _strip(panels: dict[str, ImageArray], middle: tuple[float, float]) -> Image.Image:
    """Draw the same detail of several images side by side, titled, enlarged without smoothing."""
    font = ImageFont.load_default(size=16)
    title_px, detail_px = 28, PANEL_PX // 4
    width_px = len(panels) * (PANEL_PX + GAP_PX) - GAP_PX
    strip = Image.new("RGB", (width_px, PANEL_PX + title_px), "white")
    draw = ImageDraw.Draw(strip)
    for index, (title, image) in enumerate(panels.items()):
        top, left = (
            int(np.clip(share * size - detail_px / 2, 0, size - detail_px))
            for share, size in zip(middle, image.shape[:2], strict=True)
        )
        detail = Image.fromarray(image[top : top + detail_px, left : left + detail_px])
        panel = detail.resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST)
        left_px = index * (PANEL_PX + GAP_PX)
        strip.paste(panel, (left_px, title_px))
        draw.text((left_px, 5), title, fill="black", font=font)
    return strip


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="demo.py", description=__doc__)
    parser.add_argument("--upscale", type=int, choices=(2, 3, 4), default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-output"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run("demo.py", main, sys.argv[1:]))
