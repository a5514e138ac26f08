"""The measured networks, and the files of each that the peers read."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import onnx
import torch
from PIL import Image
from torch import nn

from adadm.calibration import quantize
from adadm.export import Options, load_checkpoint, save_checkpoint
from adadm.export.assembly import assemble
from adadm.export.networks import ARCHITECTURES, Network
from adadm.export.networks.blocks import Modulator
from adadm.export.proof.sample_photographs import photographs
from adadm.export.tracing import trace
from studies.pages import CHECKPOINTS
from studies.performance.peers import Files


@dataclass(frozen=True)
class Case:
    """A network at one size.

    Attributes:
        size: height and width of `lr`, px.
        hyperparameters: those of a network with random weights; empty for a bundled one.
        in_int8: measure it in INT8 too.
    """

    title: str
    architecture: str
    upscale: int
    size: tuple[int, int]
    hyperparameters: dict[str, float] = field(default_factory=dict)
    in_int8: bool = False


_MIDDLE: dict[str, float] = {"blocks": 16, "features": 64}
CASES = {
    "edsr_x2": Case("EDSR 16 x 64, x2", "edsr", 2, (270, 480), _MIDDLE),
    "edsr_x4": Case("EDSR 16 x 64, x4", "edsr", 4, (270, 480), _MIDDLE),
    "bundled_x2": Case("EDSR 8 x 48, x2 (bundled)", "edsr", 2, (270, 480), in_int8=True),
    "bundled_x4": Case("EDSR 8 x 48, x4 (bundled)", "edsr", 4, (270, 480), in_int8=True),
    "published_x4": Case(
        "EDSR 32 x 256, x4 (published)", "edsr", 4, (72, 96), {"blocks": 32, "features": 256}
    ),
    "rdn_x2": Case(
        "RDN B, x2", "rdn", 2, (96, 128), {"blocks": 16, "layers": 8, "growth": 64, "features": 64}
    ),
    "nlsn_x2": Case(
        "NLSN 32 x 256, x2 (published)", "nlsn", 2, (48, 64), {"blocks": 32, "features": 256}
    ),
}
CHOSEN = (
    CASES["bundled_x2"],
    CASES["bundled_x4"],
    Case("RDN (bundled)", "rdn", 2, (270, 480), in_int8=True),
    Case("NLSN (bundled)", "nlsn", 2, (270, 480), in_int8=True),
)
"""Networks for which `auto` chooses, in both precisions."""
CHOICE_SIZES = ((96, 128), (270, 480))
SWEPT = "bundled_x4"
SWEEP = ((64, 64), (128, 128), (256, 256), (270, 480), (540, 960), (1080, 1920))
"""Heights and widths of `lr`, px, for the plot."""


def prepare(case: Case, folder: Path) -> Files:
    """Write the checkpoint, the naive export and ours."""
    files = Files(folder / "checkpoint.safetensors", folder / "naive.onnx", folder / "ours.onnx")
    if case.hyperparameters:
        save_checkpoint(files.checkpoint, random_network(case))
    else:
        bundled = CHECKPOINTS / f"{case.architecture}_adadm_x{case.upscale}.safetensors"
        files.checkpoint.write_bytes(bundled.read_bytes())
    checkpoint = load_checkpoint(files.checkpoint)
    ours = assemble(trace(checkpoint.network), checkpoint.metadata, Options()).model
    onnx.save(ours, files.ours)
    try:
        _export_naively(checkpoint.network, case.size, files.naive)
    except torch.onnx.OnnxExporterError as error:  # recorded: peers that read the file will fail
        files.naive.with_suffix(".txt").write_text(_reason(error), encoding="utf-8")
    return replace(files, int8=_quantized(files.checkpoint)) if case.in_int8 else files


def _quantized(checkpoint: Path) -> Path:
    """Write the INT8 model for CPUs beside a checkpoint, from scikit-image's photographs."""
    photos, model = checkpoint.with_name("photos"), checkpoint.with_name("int8.onnx")
    photos.mkdir()
    for name, photo in photographs().items():
        Image.fromarray(photo).save(photos / f"{name}.png")
    given = [str(checkpoint), "--images", str(photos), "--precision", "int8", "--target", "cpu"]
    with contextlib.redirect_stdout(io.StringIO()):
        quantize.main([*given, "-o", str(model)])
    return model


def _reason(error: Exception) -> str:
    """The first error in a chain of them, in one line."""
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    return next(iter(str(first).splitlines()), type(first).__name__)


def random_network(case: Case) -> Network:
    """Make a network with random weights and non-neutral normalizations."""
    torch.manual_seed(0)
    network = ARCHITECTURES[case.architecture](upscale=case.upscale, **case.hyperparameters)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = None  # the plain average keeps the trunk finite
        elif isinstance(module, Modulator):
            nn.init.constant_(module.weight, 0.9)
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(1, 3, 24, 24) * network.rgb_range)
    return network.eval()


def _export_naively(network: Network, size: tuple[int, int], path: Path) -> None:
    """Export with `torch.onnx.export` alone, operators expanded.

    NLSN's size is fixed: with free sizes torch.export fails before the exporter starts.
    """
    free = network.architecture != "nlsn"
    with _quiet(), patch.object(torch.onnx, "is_in_onnx_export", lambda: False):
        torch.onnx.export(
            network.root,
            (torch.zeros(1, 3, *size),),
            str(path),
            dynamo=True,
            input_names=["lr"],
            output_names=["sr"],
            external_data=False,
            verbose=False,
            dynamic_shapes=({2: "H", 3: "W"},) if free else None,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
