#!/usr/bin/env python3
"""Measure a checkpoint, an ONNX model or an engine on folders of original photographs.

    python scripts/evaluate.py MODEL Set5 Set14 --json scores.json

Each original is reduced by the model's factor (MATLAB's antialiased bicubic), enlarged again, and
compared: PSNR and SSIM on the Y channel without a border of `upscale` pixels, as papers report
them, beside bicubic interpolation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from skimage.metrics import structural_similarity

from adadm.deployment.certification.running import add_backend, evaluated, run_graph, run_session
from adadm.export.arguments import add_limit, add_weights
from adadm.export.limits import Limit
from adadm.runtime import json_format
from adadm.runtime.arguments import Parser, Paths
from adadm.runtime.backends import open_session
from adadm.runtime.cli import run
from adadm.runtime.errors import AdadmError, ImageError
from adadm.runtime.images.arrays import (
    Batch,
    ImageArray,
    batch_from_image,
    crop_to_multiple,
    enlarge,
    find_images,
    image_from_batch,
    read_image,
    reduce,
)
from adadm.runtime.images.metrics import luma, psnr_y
from adadm.runtime.models.bundled import is_engine, is_onnx
from adadm.runtime.progress import track
from adadm.runtime.tables import Console, make_table
from adadm.runtime.upscaling.turns import mean_of_turns

_LEAST_PX = 11


@dataclass(frozen=True)
class Score:
    """Mean scores over one folder."""

    folder: str
    images: int
    bicubic_psnr_db: float
    bicubic_ssim: float
    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class Model:
    """A model that enlarges batches (1, 3, H, W)."""

    upscale: int
    rgb_range: float
    run: Callable[[Batch], Batch]
    description: str

    def __call__(self, lr: ImageArray) -> ImageArray:
        return image_from_batch(self.run(batch_from_image(lr, self.rgb_range)), self.rgb_range)


def main(argv: list[str]) -> None:
    """Measure, print a table, and write it as JSON with `--json`."""
    arguments = _parse(argv)
    model = load_model(
        arguments.model,
        arguments.arch,
        limit=arguments.limit,
        weights=arguments.weights,
        backend=arguments.backend,
    )
    if arguments.self_ensemble:
        run_one = model.run
        model = replace(model, run=partial(mean_of_turns, lambda _, lr: run_one(lr)))
    scores = [evaluate(model, folder) for folder in arguments.folders]
    if arguments.json:
        json_format.write(
            arguments.json,
            {"model": arguments.model.name, "run": model.description, "scores": scores},
        )
    headers = ("folder", "images", "bicubic", "model", "gain, dB")
    title = f"{arguments.model.name}, x{model.upscale}, {model.description}: PSNR-Y (dB) / SSIM"
    table = make_table(title, headers, left=("folder",))
    for score in scores:
        table.add_row(
            score.folder,
            str(score.images),
            f"{score.bicubic_psnr_db:.2f} / {score.bicubic_ssim:.4f}",
            f"{score.psnr_db:.2f} / {score.ssim:.4f}",
            f"{score.psnr_db - score.bicubic_psnr_db:+.2f}",
        )
    Console().print(table)


def load_model(
    path: Path,
    arch: str = "auto",
    *,
    limit: Limit | None = None,
    weights: str | None = None,
    backend: str = "cpu",
) -> Model:
    """Open a checkpoint in PyTorch, or a model or an engine on a backend.

    Args:
        arch, limit, weights: for a checkpoint.
        backend: for a model. `cpu` rounds float16 values to half precision, as hardware does and
            ONNX Runtime on a CPU does not.
    """
    if not (is_onnx(path) or is_engine(path)):
        from adadm.export import load_checkpoint
        from adadm.export.proof.pytorch import run_network

        network = load_checkpoint(path, arch, limit=limit, weights=weights).network
        run = partial(run_network, network)
        return Model(network.upscale, network.rgb_range, run, "PyTorch")

    session = open_session(path, "auto" if is_engine(path) else backend)
    if missing := session.metadata.missing("upscale", "rgb_range"):
        raise AdadmError(f"{path} has no metadata {missing[0]!r}; export it with adadm")
    metadata = session.metadata.network
    measured = run_session(session, metadata)
    if session.backend == "cpu":
        measured = run_graph(evaluated(path, metadata), metadata)
    return Model(metadata.upscale, metadata.rgb_range, lambda lr: measured(lr)[0], session.backend)


def evaluate(model: Model, folder: Path) -> Score:
    """Mean scores over the images of a folder."""
    rows = []
    paths = find_images([folder])
    for path in track(paths, folder.name):
        hr = crop_to_multiple(read_image(path), model.upscale)
        if min(hr.shape[:2]) < _LEAST_PX + 2 * model.upscale:
            raise ImageError(f"{path}: too small for SSIM, whose window is {_LEAST_PX} pixels")
        lr = reduce(hr, model.upscale)
        images = (enlarge(lr, model.upscale), model(lr))
        rows.append(
            [
                (psnr_y(image, hr, model.upscale), ssim_y(image, hr, model.upscale))
                for image in images
            ]
        )
    means = np.mean(rows, axis=0)
    return Score(folder.name, len(paths), *means.ravel().tolist())


def ssim_y(found: ImageArray, expected: ImageArray, shave: int) -> float:
    """SSIM on the Y channel with the Gaussian window of Wang et al. (2004), as papers report it."""
    inner = (slice(shave, -shave),) * 2
    similarity: float = structural_similarity(  # type: ignore[no-untyped-call]
        luma(found)[inner],
        luma(expected)[inner],
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return similarity


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="evaluate.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    paths = Paths()
    parser.add_argument(
        "model", type=paths.read, help="PyTorch or safetensors file, .onnx, .engine or .plan"
    )
    parser.add_argument(
        "folders", type=paths.read, nargs="+", help="folders of original photographs"
    )
    parser.add_argument(
        "--arch", default="auto", help="architecture of a checkpoint; default: detected"
    )
    add_limit(parser)
    add_weights(parser)
    add_backend(parser)
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="average the results for the eight flips and rotations of each image",
    )
    parser.add_argument("--json", type=paths.written_file, metavar="FILE", help="write the scores")
    arguments = parser.parse_args(argv)
    paths.check()
    return arguments


if __name__ == "__main__":
    sys.exit(run("evaluate.py", main, sys.argv[1:]))
