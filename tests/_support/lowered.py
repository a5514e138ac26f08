"""A bundled and a small network in lower precision, without a search for what the budget allows."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import onnx
from PIL import Image

from _support.kept import kept
from _support.scripts import ROOT
from _support.toy_networks import enlarging_edsr
from adadm.calibration.lowering import Lowering, LoweringOptions
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.source_network import SourceNetwork, load_source_network
from adadm.export import save_checkpoint
from adadm.export.limits import set_limits
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.models.bundled import variant_path
from adadm.runtime.targets import TARGETS

Precision = Literal["fp16", "int8"]
InputType = Literal["float32", "uint8"]


@functools.cache
def source_x2() -> SourceNetwork:
    return load_source_network(ROOT / "export" / "checkpoints" / "edsr_adadm_x2.safetensors")


@functools.cache
def images_x2() -> CalibrationImages:
    """Four pieces of photographs, 64x64 px once they are reduced."""
    return CalibrationImages.of([kept(_write_images)], 2)


def _write_images(folder: Path) -> None:
    for name, photo in photographs().items():
        Image.fromarray(photo[100:228, 100:228]).save(folder / f"{name}.png")


def small_checkpoint() -> Path:
    """Two blocks of eight features that enlarge, with limits that no photograph reaches."""

    def make(folder: Path) -> None:
        network = enlarging_edsr()
        set_limits(network, 3, {})
        save_checkpoint(folder / "small.safetensors", network)

    return kept(make) / "small.safetensors"


@functools.cache
def source_small() -> SourceNetwork:
    return load_source_network(small_checkpoint())


def lowered_x2(target: str, precision: Precision, io: InputType = "float32") -> Path:
    """The whole, tile and moments models as files, which stay as they are.

    INT8 wherever ranges allow it.
    """
    return _lowered(source_x2, target, precision, io)


def lowered_small(target: str, precision: Precision, io: InputType = "float32") -> Path:
    """The same of `small_checkpoint`."""
    return _lowered(source_small, target, precision, io)


def _lowered(
    source: Callable[[], SourceNetwork], target: str, precision: Precision, io: InputType
) -> Path:
    def make(folder: Path) -> None:
        images = images_x2()
        request = LoweringOptions(precision, TARGETS[target], 0.02, io, "external")
        lowering = Lowering.of(source(), images, request)
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

    return kept(make, source.__name__, target, precision, io) / "x2.onnx"
