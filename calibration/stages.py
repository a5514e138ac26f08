"""Stages of the drift ledger: the forms of a network from training to the lowered model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from adadm.calibration.lowering import Lowering
from adadm.calibration.quality.gates import Run
from adadm.calibration.quality.ledger import Output, Stage
from adadm.export.proof.pytorch import run_with_factors
from adadm.export.tile_models import std_from
from adadm.runtime.images.arrays import Batch
from adadm.runtime.models.bundled import FOR_TILES
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession


def run_of_model(model: onnx.ModelProto) -> Run:
    """Load a model into ONNX Runtime; the result maps `lr` to `sr`."""
    session = OnnxRuntimeSession(model.SerializeToString())

    def run(lr: Batch) -> Batch:
        sr: Batch = session.run({"lr": lr})["sr"]
        return sr

    return run


def lowering_stages(lowering: Lowering, int8: Sequence[str]) -> list[Stage]:
    """All stages, from the network to the written model.

    The graphs run on ONNX Runtime. Intermediate stages run without its optimizations, so that the
    graph itself is measured; float16 stages run in the form of `rounded_to_half`.
    """
    network = lowering.source.network
    if network is not None:
        stages = [Stage("PyTorch", lambda lr: run_with_factors(network, lr))]
    else:
        kept = lowering.float32(fold="off", tail="original", factors=True)
        stages = [Stage("as exported", _run_with_factors(kept, optimize=False))]
    folded = lowering.float32(tail="original", factors=True)
    collapsed = lowering.float32(factors=True)
    stages += [
        Stage("folded", _run_with_factors(folded, optimize=False)),
        Stage("collapsed", _run_with_factors(collapsed, optimize=False)),
        Stage("ONNX Runtime", _run_with_factors(collapsed)),
    ]

    def lowered(name: str, int8: Sequence[str]) -> Stage:
        model = lowering.lowered("whole", int8, factors=True).evaluated
        return Stage(name, _run_with_factors(model, scales=lowering.factor_scales))

    if lowering.request.target.computes_half:
        stages.append(lowered("FP16", ()))
    if int8:
        stages.append(lowered("INT8", int8))
    if "tile" in lowering.variants:
        stages.append(Stage("tile models", _run_tile_models(lowering, int8)))
    return stages


def _run_with_factors(
    model: onnx.ModelProto, *, optimize: bool = True, scales: Sequence[float] = ()
) -> Callable[[Batch], Output]:
    session = OnnxRuntimeSession(model.SerializeToString(), optimize=optimize, lean=True)

    def run(lr: Batch) -> Output:
        outputs = session.run({"lr": lr})
        sr = outputs.pop("sr")
        factors = list(outputs.values())  # in graph order
        for index, scale in enumerate(scales):
            factors[index] = np.asarray(factors[index] / scale, np.float32)
        return sr, factors

    return run


def _run_tile_models(lowering: Lowering, int8: Sequence[str]) -> Callable[[Batch], Output]:
    """Run the two tile models on the whole image as one tile, until the statistics settle."""
    tile, moments = (
        OnnxRuntimeSession(lowering.lowered(variant, int8).evaluated.SerializeToString(), lean=True)
        for variant in FOR_TILES
    )

    def run(lr: Batch) -> Output:
        std = std_from(moments, lr).astype(np.float32)
        return tile.run({"lr": lr, "std": std})["sr"], []

    return run
