"""The bundled network in lower precision, without a search for what the budget allows."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
from PIL import Image

from _support.exports import kept_trace
from _support.kept import kept
from _support.scripts import ROOT
from adadm.calibration.lowering import Lowering, LoweringOptions
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.source_network import SourceNetwork
from adadm.export.checkpoint import load_checkpoint
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.models.bundled import variant_path
from adadm.runtime.targets import TARGETS

Precision = Literal["fp16", "int8"]


@functools.cache
def source_x2() -> SourceNetwork:
    """The checkpoint, as `load_source_network` reads it."""
    found = load_checkpoint(ROOT / "export" / "checkpoints" / "edsr_adadm_x2.safetensors")
    network, content = kept_trace(lambda: found.network, "edsr_adadm_x2.safetensors")
    model = ir.from_proto(onnx.load_from_string(content))
    return SourceNetwork(model, found.metadata, network, None, found.sha256)


@functools.cache
def images_x2() -> CalibrationImages:
    """Four pieces of photographs, 64x64 px once they are reduced."""
    return CalibrationImages.of([kept(_write_images)], 2)


def _write_images(folder: Path) -> None:
    for name, photo in photographs().items():
        Image.fromarray(photo[100:228, 100:228]).save(folder / f"{name}.png")


def lowered_x2(
    target: str, precision: Precision, io: Literal["float32", "uint8"] = "float32"
) -> Path:
    """The whole, tile and moments models as files, which stay as they are.

    INT8 wherever ranges allow it.
    """

    def make(folder: Path) -> None:
        images = images_x2()
        request = LoweringOptions(precision, TARGETS[target], 0.02, io, "external")
        lowering = Lowering.of(source_x2(), images, request)
        int8 = [c.name for c in lowering.convolutions] if precision == "int8" else []
        noted = {
            "precision": precision,
            "target": target,
            "images_sha256": images.digest,
            "budget_db": request.budget_db,
            "int8": int8,
        }
        for variant in lowering.variants:
            model = lowering.lowered(variant, int8).model
            entry = model.metadata_props.add()
            entry.key, entry.value = "adadm.quantization", json.dumps(noted, sort_keys=True)
            onnx.save(model, variant_path(folder / "x2.onnx", variant))

    return kept(make, target, precision, io) / "x2.onnx"
