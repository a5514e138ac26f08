"""Reference inputs and outputs for comparison on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adadm.calibration.target_forms.target_model import TargetModel
from adadm.export.proof.sample_photographs import photographs
from adadm.export.tile_models import std_from
from adadm.runtime.engines.recipe import BatchHeightWidth, Bounds
from adadm.runtime.images.arrays import ImageArray, batch_from_image, reduce
from adadm.runtime.images.compare import compare
from adadm.runtime.models.bundled import Variant
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.sessions.session import FloatArray

_NAMES = ("astronaut", "coffee", "chelsea")
_MARGIN_DB, _INT8_MARGIN_DB = 12, 6
"""Margins below the measured PSNR. Device kernels sum in other orders, and some in half precision:
four times our error. INT8 products are summed exactly, and a flipped level is one step: twice."""
_FACTOR_MARGIN = 4
_FLOAT32_DB, _UINT8_DB = 100.0, 75.0
"""Largest required PSNR: an error of 1e-5 of the peak; one in 500 values rounded the other way."""
_FLOAT32_FACTOR = 1e-4
"""Relative tolerance of a factor without rounding: three times that of an export."""
_NUDGE = 2.0**-22


@dataclass(frozen=True)
class RecordedCase:
    """One input with its expected outputs.

    Attributes:
        inputs, outputs: arrays by name, half-precision rounding included; `whole` has factors too.
        psnr_db: required PSNR of each output of the model, against the peak of the reference.
        factor_error: difference of factors with and without rounding, relative to the largest.
    """

    name: str
    variant: Variant
    inputs: dict[str, FloatArray]
    outputs: dict[str, FloatArray]
    psnr_db: dict[str, float]
    factor_error: float


def make_references(models: Mapping[Variant, TargetModel], bounds: Bounds) -> list[RecordedCase]:
    """Run photographs at the usual size, the smallest, and an odd size between them.

    ONNX Runtime is also run without the rounding to half precision, and on an input changed by a
    rounding of float32 (which a sort by hash codes, as in NLSN, amplifies). A device may differ
    four times as much (INT8: twice).

    Args:
        bounds: N, H and W of the engines' profiles.
    """
    sizes = [bounds.optimum, bounds.minimum, _between(bounds)]
    images = photographs(_NAMES)
    std_of = None
    if "moments" in models:
        std_of = OnnxRuntimeSession(models["moments"].model.SerializeToString())
    references = []
    for variant, deployed in models.items():
        plain = OnnxRuntimeSession(deployed.with_factors)
        rounded = OnnxRuntimeSession(deployed.evaluated.SerializeToString())
        is_int8 = any(node.op_type == "QuantizeLinear" for node in deployed.model.graph.node)
        margin_db = _INT8_MARGIN_DB if is_int8 else _MARGIN_DB
        for name, size in zip(_NAMES, sizes, strict=True):
            lr = _low_resolution(images[name], size, plain)
            feed: dict[str, FloatArray] = {"lr": lr}
            if variant != "whole" and std_of is not None:
                feed["std"] = std_from(std_of, lr)
            if variant == "moments":
                feed["rows_inside"] = _inside(size[1]).reshape(1, 1, -1, 1).repeat(size[0], 0)
                feed["columns_inside"] = _inside(size[2]).reshape(1, 1, 1, -1).repeat(size[0], 0)
            references.append(
                _reference(name, variant, feed, plain=plain, rounded=rounded, margin_db=margin_db)
            )
    return references


def factor_tolerance(references: Sequence[RecordedCase]) -> float:
    """Tolerance of a factor, relative to the largest of its block."""
    worst = max((case.factor_error for case in references), default=0.0)
    return max(_FACTOR_MARGIN * worst, _FLOAT32_FACTOR)


def _reference(
    name: str,
    variant: Variant,
    feed: dict[str, FloatArray],
    *,
    plain: OnnxRuntimeSession,
    rounded: OnnxRuntimeSession,
    margin_db: float,
) -> RecordedCase:
    types = {spec.name: spec.dtype for spec in plain.outputs}
    outputs = {key: value.astype(types[key]) for key, value in rounded.run(feed).items()}
    others = [plain.run(feed)]
    if feed["lr"].dtype != np.uint8:
        others.append(rounded.run({**feed, "lr": feed["lr"] * np.float32(1 + _NUDGE)}))
    factor_error, psnr_db = 0.0, {}
    for key, expected in outputs.items():
        if key.startswith("factor_"):
            in_float64 = expected.astype(np.float64)
            apart = max(float(np.abs(other[key] - in_float64).max()) for other in others)
            least = float(np.finfo(expected.dtype).eps)
            factor_error = max(factor_error, apart / np.abs(in_float64).max(), least)
        else:
            most = _UINT8_DB if expected.dtype == np.uint8 else _FLOAT32_DB
            comparisons = [compare(key, o[key].astype(expected.dtype), expected, 1) for o in others]
            least_db = min(comparison.psnr_db for comparison in comparisons) - margin_db
            psnr_db[key] = math.floor(10 * min(least_db, most)) / 10
    return RecordedCase(name, variant, feed, outputs, psnr_db, factor_error)


def _between(bounds: Bounds) -> BatchHeightWidth:
    """Odd sides between the smallest and the usual ones, if there are any."""
    batch, *sides = bounds.optimum
    least = bounds.minimum[1:]
    height, width = (
        min((low + usual) // 2 | 1, usual) for low, usual in zip(least, sides, strict=True)
    )
    return batch, height, width


def _low_resolution(
    image: ImageArray, size: BatchHeightWidth, session: OnnxRuntimeSession
) -> FloatArray:
    """Cut the upper left of a reduced photograph, mirrored if it is too small."""
    batch, height, width = size
    upscale = session.metadata.network.upscale
    missing = [
        max(upscale * side - have, 0) for side, have in zip(size[1:], image.shape[:2], strict=True)
    ]
    large = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    small = reduce(large[: upscale * height, : upscale * width], upscale)
    images = np.stack([np.roll(small, 9 * index, axis=1) for index in range(batch)])
    if session.inputs[0].dtype == np.uint8:
        return images
    rgb_range = session.metadata.network.rgb_range
    return np.concatenate([batch_from_image(one, rgb_range) for one in images])


def _inside(side: int) -> npt.NDArray[np.float32]:
    """Mask of a side without its overlap."""
    inside = np.ones(side, np.float32)
    inside[: side // 8] = 0
    return inside
