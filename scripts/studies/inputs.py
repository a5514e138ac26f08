"""Checkpoints and photographs that studies of networks measure."""

from __future__ import annotations

import argparse
from pathlib import Path

from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.arguments import Paths
from adadm.runtime.images.arrays import ImageArray, find_images, read_image
from studies.pages import CHECKPOINTS

BUNDLED = [CHECKPOINTS / f"edsr_adadm_x{upscale}.safetensors" for upscale in (2, 3, 4)]


def add_inputs(parser: argparse.ArgumentParser, paths: Paths, note: str = "") -> None:
    """Add `--checkpoints` and `--photographs`, which `read_photographs` reads.

    Args:
        note: end of the help of `--checkpoints`.
    """
    parser.add_argument(
        "--checkpoints",
        type=paths.read,
        nargs="+",
        default=BUNDLED,
        help=f"default: the bundled ones{note}",
    )
    parser.add_argument(
        "--photographs",
        type=paths.read,
        nargs="+",
        default=[],
        help="files or folders, besides the photographs of scikit-image",
    )


def read_photographs(more: list[Path]) -> dict[str, ImageArray]:
    """Photographs of scikit-image, and of files and folders, by the name of folder and file."""
    photos = {f"scikit-image/{name}": image for name, image in photographs().items()}
    for path in find_images(more):
        photos[f"{path.parent.name}/{path.stem}"] = read_image(path)
    return photos
