"""The bundled network in lower precision, without a search for what the budget allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import onnx
from PIL import Image

from _support.scripts import ROOT
from adadm.calibration.lowering import Lowering, LoweringOptions
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.source_network import load_source_network
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.models.bundled import variant_path
from adadm.runtime.targets import TARGETS

Precision = Literal["fp16", "int8"]


def lowered_x2(
    folder: Path,
    target: str,
    precision: Precision,
    io: Literal["float32", "uint8"] = "float32",
) -> Path:
    """The whole, tile and moments models as files; INT8 wherever ranges allow it."""
    (folder / "images").mkdir(exist_ok=True)
    for name, photo in photographs().items():
        Image.fromarray(photo[100:228, 100:228]).save(folder / "images" / f"{name}.png")
    source = load_source_network(
        ROOT / "export" / "checkpoints" / "edsr_adadm_x2.safetensors", "auto"
    )
    images = CalibrationImages.of([folder / "images"], source.metadata.upscale)
    request = LoweringOptions(
        precision, TARGETS[target], 0.02, io, "external", cache=folder / "cache"
    )
    lowering = Lowering.of(source, images, request)
    int8 = [c.name for c in lowering.convolutions] if precision == "int8" else []
    output = folder / f"x2.{precision}.{target}.{io}.onnx"
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
        onnx.save(model, variant_path(output, variant))
    return output
